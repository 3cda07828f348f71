"""What a sparse method used of each task vector, counted as its blocks are combined."""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from heredity.kernels.consensus import count_used
from heredity.merging._method import Block


class Tally:
    """Counts over one tensor; combining it again starts over.

    Attributes:
        kept: elements of each task vector that are used.
        conflicts: elements whose signs differ among the task vectors.
        elements: of the tensor, so far.
    """

    def __init__(self, models: int) -> None:
        self.kept: Int64[ndarray, " models"] = np.zeros(models, np.int64)
        self.conflicts = self.elements = 0

    def count(self, block: Block, least: float = 0) -> None:
        """Add a block whose models are changes; those larger than `least` are used."""
        if block.start == 0:
            self.kept[:] = self.conflicts = self.elements = 0
        deltas: Float32[ndarray, "models n"] = block.models
        self.conflicts += count_used(deltas, np.float32(least), self.kept)
        self.elements += len(block.base)

    @property
    def facts(self) -> dict[str, Any]:
        """Share of each task vector that is used, and share of elements with a sign conflict."""
        size = max(self.elements, 1)
        return {"kept": [int(kept) / size for kept in self.kept], "sign_conflicts": self.conflicts / size}
