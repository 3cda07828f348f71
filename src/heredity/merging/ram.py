"""RAM: average where models overlap, keep whole what only one of them changed.

Source: Reinforced Agent Merging 2026, arXiv 2601.13572; conventions as mergekit 0.1.5.
"""

from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float32
from msgspec import Meta
from numpy import ndarray

from heredity.kernels.consensus import sign_conflicts
from heredity.kernels.elementwise import average_touching
from heredity.merging._method import Block, ElementMethod, Inputs, TensorBlocks


class Moved:
    """How many elements each model moved, as blocks are combined.

    Attributes:
        scales: of each model's unique changes.
    """

    def __init__(self, models: int) -> None:
        self.scales = np.ones(models, np.float32)
        self.kept = np.zeros(models, np.int64)
        self.conflicts = self.elements = 0

    def count(self, block: Block, epsilon: np.float32) -> None:
        """Add a block of changes."""
        if block.start == 0:
            self.kept[:] = self.conflicts = self.elements = 0
        self.kept += np.count_nonzero(np.abs(block.models) > epsilon, axis=1)
        self.conflicts += sign_conflicts(block.models)
        self.elements += len(block.base)

    @property
    def facts(self) -> dict[str, Any]:
        """Share of each task vector that is used, and share of elements with a sign conflict."""
        size = max(self.elements, 1)
        return {"kept": [int(kept) / size for kept in self.kept], "sign_conflicts": self.conflicts / size}


class Ram(ElementMethod, frozen=True, kw_only=True):
    """Mean of the changes larger than `epsilon`, over the models that made one."""

    inputs: ClassVar = Inputs("required")

    epsilon: Annotated[float, Meta(ge=0)] = 1e-5

    def survey(self, blocks: TensorBlocks) -> Moved:
        """Need nothing of the whole."""
        return Moved(len(blocks.models))

    def combine(self, survey: Moved, block: Block) -> Float32[ndarray, "n"]:
        """Return the base plus the averaged changes."""
        np.subtract(block.models, block.base, out=block.models)
        survey.count(block, np.float32(self.epsilon))
        out = np.empty_like(block.base)
        average_touching(block.base, block.models, np.float32(self.epsilon), survey.scales, out)
        return out
