"""Arcee Fusion: take over the changes of outlying importance, leave the rest.

Source: Arcee AI, mergekit 0.1.5; exact quantiles in fp64 where the peer draws a sample.
"""

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from heredity.kernels.elementwise import importance, row_divergence, swap_important
from heredity.kernels.select import DIGITS, ascend, count_digit
from heredity.merging._method import Block, ElementMethod, Inputs, TensorBlocks


class Fusion:
    """The divergence of each row and the importance from which a change is taken over."""

    def __init__(self, divergence: Float64[ndarray, "rows"], threshold: float, width: int) -> None:
        self.divergence, self.threshold, self.width = divergence, threshold, width
        self.taken = self.elements = 0

    @property
    def facts(self) -> dict[str, Any]:
        """Share of the elements that are taken over."""
        return {"kept": [self.taken / max(self.elements, 1)]}


class ArceeFusion(ElementMethod, frozen=True, kw_only=True):
    """Keep changes whose |b − a| · KL(row of b ‖ row of a) reaches the median + 1.5 IQR."""

    inputs: ClassVar = Inputs("first", least=1, most=1)
    rows: ClassVar = True

    def survey(self, blocks: TensorBlocks) -> Fusion:
        """Find the divergence of every row, then the exact quartiles of the importance."""
        width = max(blocks.shape[-1] if blocks.shape else 1, 1)
        divergence = np.empty(blocks.size // width)
        for block in blocks:
            first = block.start // width
            row_divergence(
                block.base, block.models[0], width, divergence[first : first + len(block.base) // width]
            )
        if not blocks.size:
            return Fusion(divergence, 0.0, width)
        ranks = [int(np.float32(q) * (blocks.size - 1)) for q in (0.25, 0.5, 0.75)]
        lower, median, upper = _quantiles(blocks, divergence, width, ranks)
        return Fusion(divergence, median + 1.5 * (upper - lower), width)

    def combine(self, survey: Fusion, block: Block) -> Float32[ndarray, "n"]:
        """Return the base with the important changes."""
        out = np.empty_like(block.base)
        scores = _scores(block, survey.divergence, survey.width)
        taken = swap_important(block.base, block.models[0], scores, survey.threshold, out)
        if block.start == 0:
            survey.taken = survey.elements = 0
        survey.taken, survey.elements = survey.taken + int(taken), survey.elements + len(out)
        return out


def _scores(block: Block, divergence: Float64[ndarray, "rows"], width: int) -> Float64[ndarray, "n"]:
    scores = np.empty(len(block.base))
    importance(block.base, block.models[0], divergence[block.start // width :], width, scores)
    return scores


def _quantiles(
    blocks: TensorBlocks, divergence: Float64[ndarray, "rows"], width: int, ranks: list[int]
) -> list[float]:
    """Return the scores of 0-based ranks from the smallest, exactly: four passes, one for each 16 bits."""
    found = [(0, rank) for rank in ranks]  # bits known so far, and rank among the scores that share them
    for shift in (48, 32, 16, 0):
        counts = {prefix: np.zeros(DIGITS, np.int64) for prefix, _ in found}
        for block in blocks:
            keys = _scores(block, divergence, width).view(np.uint64)
            for prefix, column in counts.items():
                count_digit(keys, np.uint64(prefix), shift, column)
        below = [(prefix, ascend(counts[prefix], rank)) for prefix, rank in found]
        found = [(prefix << 16 | digit, within) for prefix, (digit, within) in below]
    return [float(np.uint64(bits).view(np.float64)) for bits, _ in found]
