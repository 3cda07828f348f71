"""How alike models are, from the inner products of their task vectors.

With G[i, j] = ⟨Δ_i, Δ_j⟩ over n elements and s_i = Σ Δ_i:

    cosine     G_ij / √(G_ii G_jj)
    |cosine|   its magnitude: opposite task vectors count as alike
    pearson    (G_ij − s_i s_j / n) / √((G_ii − s_i²/n)(G_jj − s_j²/n))
    l2         √(G_ii + G_jj − 2 G_ij)
    relative   l2 / ‖w_ref‖

A model that does not differ from the reference has no direction: its cosine with every other model is 0.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from heredity.errors import ConfigError

Measure = Literal["cosine", "|cosine|", "pearson", "l2", "relative"]
MEASURES: tuple[str, ...] = get_args(Measure)
_DISTANCES = ("l2", "relative")


def between(
    products: Float[ndarray, "k k"],
    measure: str = "cosine",
    *,
    sums: Float[ndarray, "k"] | None = None,
    size: int = 0,
    reference_norm: float = 0.0,
) -> Float[ndarray, "k k"]:
    """Compute any of the five measures between all pairs.

    Args:
        products: inner products of the task vectors.
        measure: one of `MEASURES`.
        sums: sum of each task vector, for pearson.
        size: number of elements, for pearson.
        reference_norm: ‖w_ref‖, for relative.

    Raises:
        ConfigError: an unknown measure, or one whose ingredients are not given.
    """
    if measure == "cosine":
        return cosine(products)
    if measure == "|cosine|":
        return np.abs(cosine(products))
    if measure == "pearson":
        if sums is None or size < 1:
            raise ConfigError("pearson needs the sums and the number of elements", "pass sums= and size=")
        return pearson(products, sums, size)
    if measure == "l2":
        return distance(products)
    if measure == "relative":
        if reference_norm <= 0:
            raise ConfigError("relative distance needs the norm of the reference", "pass reference_norm=")
        return distance(products) / reference_norm
    raise ConfigError(f"unknown measure {measure!r}", f"choose one of: {', '.join(MEASURES)}")


def is_distance(measure: str) -> bool:
    """Say whether a larger value of a measure means less alike."""
    return measure in _DISTANCES


def cosine(products: Float[ndarray, "k k"]) -> Float[ndarray, "k k"]:
    """Return the cosine of every pair of task vectors, in [−1, 1]; 0 where one of them is zero."""
    norms = np.sqrt(np.maximum(np.diagonal(products), 0.0))
    scale = np.outer(norms, norms)
    values = np.divide(products, scale, out=np.zeros_like(products, dtype=np.float64), where=scale > 0)
    values = np.clip((values + values.T) / 2, -1.0, 1.0)
    np.fill_diagonal(values, np.where(norms > 0, 1.0, 0.0))
    return values


def pearson(products: Float[ndarray, "k k"], sums: Float[ndarray, "k"], size: int) -> Float[ndarray, "k k"]:
    """Return the correlation of every pair of task vectors over their elements."""
    return cosine(products - np.outer(sums, sums) / size)


def distance(products: Float[ndarray, "k k"]) -> Float[ndarray, "k k"]:
    """Return the Euclidean distance of every pair of models."""
    squares = np.diagonal(products)
    values = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0.0))
    np.fill_diagonal(values, 0.0)
    return (values + values.T) / 2


def chord(cosines: Float[ndarray, "k k"]) -> Float[ndarray, "k k"]:
    """Return √(2 − 2·cosine): the Euclidean distance of the directions, which a map can draw.  In [0, 2]."""
    values = np.sqrt(np.maximum(2 - 2 * cosines, 0.0))
    np.fill_diagonal(values, 0.0)
    return values


def centre(products: Float[ndarray, "k k"]) -> Float[ndarray, "k k"]:
    """Return the inner products of Δ_i − mean(Δ): what is common to all members is taken away.

    Give the members only, never the base: it may be unknown. After centring, independent members of equal
        norm
    have cosine −1/(K−1), not 0. It mends the false kinship that mixed dtypes make.
    """
    rows = products - products.mean(axis=0, keepdims=True)
    return rows - rows.mean(axis=1, keepdims=True)


def separation(similarity: Float[ndarray, "k k"], labels: ndarray) -> tuple[float, float]:
    """Return the mean similarity of pairs with one label and of pairs with two; NaN without such a pair."""
    same = np.equal.outer(labels, labels)
    upper = np.triu(np.ones_like(same), 1)
    within, apart = similarity[same & upper], similarity[~same & upper]
    return (float(within.mean()) if within.size else np.nan), (float(apart.mean()) if apart.size else np.nan)
