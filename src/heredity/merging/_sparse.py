"""TIES, DARE, DELLA and Breadcrumbs: thin the task vectors, elect signs or not, add to the base."""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32
from msgspec import field
from numpy import ndarray

from heredity.kernels.consensus import add_agreeing, add_all
from heredity.kernels.masks import l1_and_count
from heredity.merging._method import Block, ElementMethod, Inputs, PerModel, TensorBlocks
from heredity.merging._sparsify import Band, Everything, Sparsifier, resolve
from heredity.merging._tally import Tally
from heredity.seeds import key

_NEGLIGIBLE = 1e-7  # an L1 norm below it is not rescaled to or from


class Thinning:
    """What the survey of a tensor found: how to thin each model, and the factor that restores its L1 norm."""

    def __init__(self, thin: list[Sparsifier]) -> None:
        self.thin = thin
        self.factors = np.ones(len(thin), np.float32)
        self.seen = np.zeros((len(thin), 2), np.int64)  # ties met so far, see `Between`
        self.tally = Tally(len(thin))

    @property
    def facts(self) -> dict[str, Any]:
        """Share of each task vector used, share of elements with a sign conflict, rescaling of each model."""
        return {**self.tally.facts, "rescaled": [float(factor) for factor in self.factors]}


class SparseMethod(ElementMethod, frozen=True, kw_only=True):
    """`base + lambda · Σ weight_i · thinned(model_i − base)`, with or without a vote on signs."""

    inputs: ClassVar = Inputs("required")
    ignored: ClassVar = ("int8_mask",)
    consensus: ClassVar[bool]

    weight: PerModel = 1.0
    density: PerModel = 1.0
    lambda_: float = field(default=1.0, name="lambda")
    normalize: bool
    rescale: bool

    @abstractmethod
    def sparsifier(self, index: int, blocks: TensorBlocks, draw_key: int) -> Sparsifier | Band:
        """Return what thins one tensor of one model.

        Args:
            index: which model.
            blocks: the tensor, for its size and shape.
            draw_key: 64-bit key of this seed, model and tensor, for random draws.
        """

    def survey(self, blocks: TensorBlocks) -> Thinning:
        """Find thresholds in counting passes, and how much of each task vector's L1 norm is left."""
        asked = [
            self.sparsifier(i, blocks, key(blocks.seed, "mask", model, blocks.name))
            for i, model in enumerate(blocks.models)
        ]
        found = Thinning(resolve(asked, blocks))
        if self.rescale and any(not isinstance(thin, Everything) for thin in found.thin):
            _match_l1(found, blocks)
        return found

    def combine(self, survey: Thinning, block: Block) -> Float32[ndarray, "n"]:
        """Return the base plus the thinned, weighted task vectors of a block."""
        survey.seen[:] *= block.start > 0
        for thin, model, factor, seen in zip(
            survey.thin, block.models, survey.factors, survey.seen, strict=True
        ):
            np.subtract(model, block.base, out=model)
            thin.thin(model, block.start, seen)
            if factor != 1:
                np.multiply(model, factor, out=model)
        survey.tally.count(block)
        weights = self.per_model("weight", len(block.models)).astype(np.float32)
        out, scale = np.empty_like(block.base), np.float32(self.lambda_)
        if self.consensus:
            add_agreeing(
                block.base, block.models, weights, weights, self.normalize, np.float32(0), scale, out
            )
            return out
        if self.normalize and abs(weights.sum()) >= 1e-8:
            scale = np.float32(self.lambda_ / weights.sum())
        add_all(block.base, block.models, weights, scale, out)
        return out


def _match_l1(found: Thinning, blocks: TensorBlocks) -> None:
    """Set the factors to Σ|delta| / Σ|thinned delta|, each summed in fp64."""
    before, after = np.zeros(len(found.thin)), np.zeros(len(found.thin))
    found.seen[:] = 0
    for block in blocks:
        for i, (thin, model, seen) in enumerate(zip(found.thin, block.models, found.seen, strict=True)):
            if isinstance(thin, Everything):
                continue
            np.subtract(model, block.base, out=model)
            before[i] += l1_and_count(model)[0]
            thin.thin(model, block.start, seen)
            after[i] += l1_and_count(model)[0]
    usable = (before >= _NEGLIGIBLE) & (after >= _NEGLIGIBLE)
    found.factors[usable] = before[usable] / after[usable]
