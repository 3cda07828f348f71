"""RAM+ (tensor-local): RAM, with unique changes enlarged where a model shares many others.

Source: Reinforced Agent Merging 2026, arXiv 2601.13572; conventions as mergekit 0.1.5.
"""

from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32
from msgspec import Meta
from numpy import ndarray

from heredity.kernels.elementwise import average_touching, count_touching
from heredity.merging._method import Block, ElementMethod, Inputs, TensorBlocks
from heredity.merging._tally import Tally


class Moved(Tally):
    """The tally, and the scale of each model's unique changes."""

    def __init__(self, scales: Float32[ndarray, "models"]) -> None:
        super().__init__(len(scales))
        self.scales = scales


class RamplusTl(ElementMethod, frozen=True, kw_only=True):
    """Unique changes times 1 + r · min(shared / unique, alpha), counted in each tensor; the rest as RAM."""

    inputs: ClassVar = Inputs("required")

    r: float = 0.1
    alpha: Annotated[float, Meta(ge=0)] = 0.2
    epsilon: Annotated[float, Meta(ge=0)] = 1e-5

    def survey(self, blocks: TensorBlocks) -> Moved:
        """Find the factor of each model's unique changes."""
        unique, shared = np.zeros((2, len(blocks.models)), np.int64)
        for block in blocks:
            np.subtract(block.models, block.base, out=block.models)
            count_touching(block.models, np.float32(self.epsilon), unique, shared)
        ratio = shared / np.maximum(unique, self.epsilon if self.epsilon > 0 else 1.0)
        return Moved(np.asarray(1 + self.r * np.clip(ratio, 0, self.alpha), np.float32))

    def combine(self, survey: Moved, block: Block) -> Float32[ndarray, "n"]:
        """Return the base plus the averaged changes."""
        np.subtract(block.models, block.base, out=block.models)
        survey.count(block, self.epsilon)
        out = np.empty_like(block.base)
        average_touching(block.base, block.models, np.float32(self.epsilon), survey.scales, out)
        return out
