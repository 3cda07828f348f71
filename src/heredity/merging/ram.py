"""RAM: average where models overlap, keep whole what only one of them changed.

Source: Reinforced Agent Merging 2026, arXiv 2601.13572; conventions as mergekit 0.1.5.
"""

from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32
from msgspec import Meta
from numpy import ndarray

from heredity.kernels.elementwise import average_touching
from heredity.merging._method import Block, ElementMethod, Inputs, TensorBlocks
from heredity.merging._tally import Tally


class Ram(ElementMethod, frozen=True, kw_only=True):
    """Mean of the changes larger than `epsilon`, over the models that made one."""

    inputs: ClassVar = Inputs("required")

    epsilon: Annotated[float, Meta(ge=0)] = 1e-5

    def survey(self, blocks: TensorBlocks) -> Tally:
        """Need nothing of the whole."""
        return Tally(len(blocks.models))

    def combine(self, survey: Tally, block: Block) -> Float32[ndarray, "n"]:
        """Return the base plus the averaged changes."""
        np.subtract(block.models, block.base, out=block.models)
        survey.count(block, self.epsilon)
        out, alike = np.empty_like(block.base), np.ones(len(block.models), np.float32)
        average_touching(block.base, block.models, np.float32(self.epsilon), alike, out)
        return out
