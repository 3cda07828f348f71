"""A difference of weights kept as two thin factors: Δ = s · left · right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64
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

    @property
    def rank(self) -> int:
        """Columns of `left`: the rank of Δ is not larger."""
        return int(self.left.shape[1])


def stacked(terms: Sequence[tuple[float, LowRank]]) -> LowRank:
    """Return Σ c·Δ as the factors side by side, c and the scales multiplied into the left ones; rank Σ r."""
    left = [(c * delta.scale * delta.left.astype(np.float64)).astype(np.float32) for c, delta in terms]
    right = [delta.right.astype(np.float32) for _, delta in terms]
    return LowRank(np.concatenate(left, axis=1), np.concatenate(right, axis=0), 1.0)


def truncated(delta: LowRank, rank: int) -> LowRank:
    """Return the Δ of at most `rank` that is nearest in Frobenius norm, without forming Δ.

    Source: Eckart & Young 1936, by the SVD of the product of the two triangles of left = QT and rightᵀ = PS.
    """
    q, p, core = _core(delta)
    u, singular, v = np.linalg.svd(core)
    root = np.sqrt(singular[:rank])
    left, right = (q @ u[:, :rank]) * root, (v[:rank] @ p.T) * root[:, None]
    return LowRank(left.astype(np.float32), np.ascontiguousarray(right, np.float32), 1.0)


def norm(delta: LowRank) -> float:
    """Return the Frobenius norm of Δ, without forming it."""
    return float(np.linalg.norm(_core(delta)[2]))


def distance(one: LowRank, other: LowRank) -> float:
    """Return the Frobenius norm of the difference of two Δ of one shape, without forming them."""
    left = np.concatenate([one.scale * one.left.astype(np.float64), -other.scale * other.left], axis=1)
    return norm(LowRank(left, np.concatenate([one.right.astype(np.float64), other.right], axis=0), 1.0))


def _core(
    delta: LowRank,
) -> tuple[Float64[ndarray, "rows a"], Float64[ndarray, "columns b"], Float64[ndarray, "a b"]]:
    """Return Q, P with orthonormal columns and C such that Δ = Q C Pᵀ."""
    q, t = np.linalg.qr(delta.scale * delta.left.astype(np.float64))
    p, s = np.linalg.qr(delta.right.T.astype(np.float64))
    return q, p, t @ s.T
