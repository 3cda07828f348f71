"""A difference of weights kept as two thin factors: Δ = s · left · right."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray


@dataclass(frozen=True, eq=False)
class LowRank:
    """Δ = scale · left @ right, in the orientation in which the base stores the weight.

    Attributes:
        left: [rows, r].
        right: [r, columns].
        scale: α / r, or α / √r with rslora.
    """

    left: Float[ndarray, "rows r"]
    right: Float[ndarray, "r columns"]
    scale: float

    def rows(self, first: int, last: int) -> Float32[ndarray, "block columns"]:
        """Return rows [first, last) of Δ, computed in float32 from float32 factors."""
        return (self.left[first:last] * np.float32(self.scale)) @ self.right

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of Δ."""
        return (self.left.shape[0], self.right.shape[1])
