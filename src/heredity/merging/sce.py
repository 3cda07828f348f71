"""SCE: select elements of high variance, calculate a weight for each model, erase minority signs.

Source: Wan et al. 2024 (FuseChat), arXiv 2408.07990; conventions as mergekit 0.1.5.
"""

from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float32
from msgspec import Meta
from numpy import ndarray

from heredity.kernels.consensus import add_agreeing
from heredity.kernels.elementwise import variance
from heredity.kernels.masks import keep_between
from heredity.kernels.select import DIGITS, count_high, count_low, descend
from heredity.merging._method import Block, ElementMethod, Inputs, TensorBlocks
from heredity.merging._tally import Tally

_LARGEST = 0x7FFFFFFF


class Selection:
    """Which elements are used, by the bits of their variance, and what each model weighs."""

    def __init__(self, low: int, quota: int) -> None:
        self.low, self.quota = low, quota
        self.seen = np.zeros(2, np.int64)
        self.weights = np.empty(0, np.float32)
        self.tally = Tally(0)

    @property
    def facts(self) -> dict[str, Any]:
        """Share of each task vector that is used and not 0, share of elements with a sign conflict, weights."""
        return {**self.tally.facts, "weights": [float(weight) for weight in self.weights]}


class Sce(ElementMethod, frozen=True, kw_only=True):
    """Mean of the agreeing changes, weighted by each model's mean squared change.

    The weights are uniform where the squared changes sum to less than 1e-6, as they do in most fine-tunes.
    """

    inputs: ClassVar = Inputs("required")
    ignored: ClassVar = ("int8_mask",)

    select_topk: Annotated[float, Meta(ge=0, le=1)] = 1.0

    def survey(self, blocks: TensorBlocks) -> Selection:
        """Find the threshold of the variance, then the models' weights."""
        selection = self._threshold(blocks) if self.select_topk < 1 else Selection(0, 0)
        squares = np.zeros(len(blocks.models))
        selection.tally = Tally(len(blocks.models))
        for block in blocks:
            self._select(selection, block)
            squares += np.square(block.models, dtype=np.float64).sum(axis=1)
        squares /= max(blocks.size, 1)
        total = squares.sum()
        shares = np.full(len(squares), 1 / len(squares)) if total < 1e-6 else squares / total
        selection.weights = shares.astype(np.float32)
        return selection

    def combine(self, survey: Selection, block: Block) -> Float32[ndarray, "n"]:
        """Return the base plus the weighted mean of the agreeing changes."""
        self._select(survey, block)
        survey.tally.count(block)
        out, votes = np.empty_like(block.base), np.ones(len(block.models), np.float32)
        smallest, scale = np.float32(1e-6), np.float32(1)
        add_agreeing(block.base, block.models, votes, survey.weights, True, smallest, scale, out)
        return out

    def _threshold(self, blocks: TensorBlocks) -> Selection:
        """Find the variance that the int(nonzero · select_topk) largest reach."""
        high, low = np.zeros(DIGITS // 2, np.int64), np.zeros(DIGITS, np.int64)
        nonzero = 0
        for block in blocks:
            spread = _variance(block)
            nonzero += int(np.count_nonzero(spread))
            count_high(spread, high)
        kept = int(nonzero * self.select_topk)
        if kept == 0:
            return Selection(_LARGEST, 0)
        digit, rank = descend(high, kept - 1)
        for block in blocks:
            count_low(_variance(block), digit, low)
        lower, within = descend(low, rank)
        return Selection(digit << 16 | lower, within + 1)

    def _select(self, selection: Selection, block: Block) -> None:
        """Turn the block's models into changes, zero where the variance is too small."""
        if self.select_topk >= 1:
            np.subtract(block.models, block.base, out=block.models)
            return
        selection.seen[:] *= block.start > 0
        spread = _variance(block)
        keep_between(spread, selection.low, _LARGEST, selection.quota, 0, selection.seen)
        np.multiply(block.models, spread != 0, out=block.models)


def _variance(block: Block) -> Float32[ndarray, "n"]:
    """Turn the block's models into changes and return their variance over the models."""
    np.subtract(block.models, block.base, out=block.models)
    out = np.empty_like(block.base)
    variance(block.models, out)
    return out
