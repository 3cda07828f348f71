"""Fisher merging: an average weighted, element by element, by how much each model's loss depends on it.

Source: Matena & Raffel 2022, arXiv 2111.09832, eq. 4.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float, Float32
from msgspec import Meta
from numpy import ndarray

from heredity.merging._method import DataMethod, Inputs, PerModel
from heredity.statistics import Statistics


class Fisher(DataMethod, frozen=True, kw_only=True):
    """`Σ weight_i F_i W_i / Σ weight_i F_i` with diagonal Fisher information F."""

    inputs: ClassVar = Inputs("ignored", least=1)

    weight: PerModel = 1.0
    floor: Annotated[float, Meta(ge=0)] = 1e-12

    def solve(
        self,
        name: str,
        weights: Sequence[Float[ndarray, "..."]],
        statistics: Sequence[Statistics],
        transposed: bool,
    ) -> Float32[ndarray, "..."] | None:
        """Return the merged tensor; see `DataMethod.solve`."""
        if not all(known.has_fisher(name) for known in statistics):
            return None
        shares = self.per_model("weight", len(weights))
        total, wanted = np.zeros(weights[0].shape), np.zeros(weights[0].shape)
        for share, weight, known in zip(shares, weights, statistics, strict=True):
            information = share * np.maximum(known.fisher(name), self.floor)
            total += information
            wanted += information * weight
        return np.asarray(wanted / np.where(total > 0, total, 1.0), np.float32)
