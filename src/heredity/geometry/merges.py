"""Which models is this one a linear merge of?  Solve δ ≈ Σ a_i δ_i with a ≥ 0, from inner products alone.

Parents of a merge lie outside, the merge between them: a parent written in terms of its merge needs a
    negative
coefficient, so a ≥ 0 tells which is which. SLERP and its kin are linear tensor by tensor, not in the whole:
that fit allows other coefficients for each tensor, and a multiple of the reference.
"""

from collections.abc import Sequence
from itertools import combinations

import msgspec
import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import nnls

from heredity.geometry.hull import nearest_to_origin
from heredity.geometry.rounding import noise, straightened

EXACT = 2e-3
"""Residuals below this are none, whatever the format: the Gram matrix itself is no more exact."""


class MergeFit(msgspec.Struct, frozen=True, eq=False):
    """One model as a combination of others.

    Attributes:
        parents: indices of the models with a coefficient.
        coefficients: of the parents' task vectors; what is left of 1 is the reference's.
        residual: ‖δ − Σ a_i δ_i‖ / ‖δ‖ with one set of coefficients for all tensors.
        tensor_residual: the same with a set for each tensor.
    """

    parents: tuple[int, ...]
    coefficients: Float[ndarray, "m"]
    residual: float
    tensor_residual: float


class Allowance(msgspec.Struct, frozen=True, eq=False):
    """What the stored format does to a merge of those parents (simulated).

    Attributes:
        coefficients: of the merge before it was stored, as far as they can be told.
        precision: how far storing it bent each coefficient: |read − before|, at least 0.001.
        residual: what it leaves unexplained at most: above it, a fit is no merge.
    """

    coefficients: Float[ndarray, "m"]
    precision: Float[ndarray, "m"]
    residual: float


def fit(
    products: Float[ndarray, "t n n"],
    child: int,
    candidates: Sequence[int],
    dtype: str,
    *,
    base_known: bool = True,
) -> MergeFit | None:
    """Write one model as a non-negative combination of as few candidates as it takes.

    Args:
        products: per tensor, inner products of [w_ref, Δ_1 … Δ_K].
        child: index of the model, ≥ 1.
        candidates: indices of possible parents, ≥ 1.
        dtype: stored format of the model.
        base_known: the reference is the base of all, so that coefficients may have any sum (task arithmetic);
            otherwise they sum to at most 1, the rest being the reference's: the convex hull.

    Returns:
        The fit, or None if the model does not differ from the reference, or no candidate helps.
    """
    total = products.sum(axis=0)
    own = float(total[child, child])
    parents = [index for index in candidates if total[index, index] > 0]
    if own <= 0 or not parents:
        return None
    rounding = noise(dtype) * float(np.sqrt(total[0, 0] / own))
    tolerance = max(EXACT, min(2 * rounding, 0.1)) ** 2
    parents, weights, left = _pruned(total, child, parents, tolerance, base_known)
    if len(parents) > 2:
        pair, pair_weights, pair_left = _best_pair(total, child, candidates, base_known)
        if pair_left <= max(tolerance, 1.1 * left):
            parents, weights, left = pair, pair_weights, pair_left
    if not parents:
        return None
    by_tensor = sum(_tensor_residual(tensor, child, parents) for tensor in products)
    best = float(np.sqrt(min(by_tensor / own, left)))
    return MergeFit(tuple(parents), weights, float(np.sqrt(left)), best)


def allowance(
    products: Float[ndarray, "t n n"], child: int, found: MergeFit, dtypes: Sequence[str]
) -> Allowance:
    """Simulate how the stored formats bend the coefficients of a merge like the one found."""
    total = products.sum(axis=0)
    parents = list(found.parents)
    before, residual = straightened(
        found.coefficients,
        total[np.ix_(parents, parents)],
        float(np.sqrt(total[0, 0])),
        tuple(dtypes[index] for index in parents),
        dtypes[child],
    )
    precision = np.maximum(np.abs(before - found.coefficients), 0.001)
    return Allowance(before, precision, max(EXACT, 1.5 * residual))


def _pruned(
    total: Float[ndarray, "n n"], child: int, parents: list[int], tolerance: float, base_known: bool
) -> tuple[list[int], Float[ndarray, "m"], float]:
    """Drop parents, least needed first, until each that is left explains something."""
    weights = _solve(total, child, parents, base_known)
    parents = [index for index, weight in zip(parents, weights, strict=True) if weight > 0]
    while parents:
        weights = _solve(total, child, parents, base_known)
        left = _residual(total, child, parents, weights)
        losses = []
        for index in parents:
            rest = [other for other in parents if other != index]
            losses.append(_residual(total, child, rest, _solve(total, child, rest, base_known)) - left)
        weakest = int(np.argmin(losses))
        if weights.min() > 0 and losses[weakest] > max(tolerance, 0.05 * left):
            return parents, weights, left
        parents.pop(weakest)
    return [], np.zeros(0), 1.0


def _best_pair(
    total: Float[ndarray, "n n"], child: int, candidates: Sequence[int], base_known: bool
) -> tuple[list[int], Float[ndarray, "2"], float]:
    """Try every two candidates: of several combinations that fit, one of two models is to be believed."""
    best: tuple[list[int], Float[ndarray, "2"], float] = ([], np.zeros(0), np.inf)
    for pair in combinations([index for index in candidates if total[index, index] > 0], 2):
        weights = _solve(total, child, list(pair), base_known)
        left = _residual(total, child, list(pair), weights)
        if weights.min() > 0 and left < best[2]:
            best = (list(pair), weights, left)
    return best


def _solve(
    total: Float[ndarray, "n n"], child: int, parents: list[int], base_known: bool
) -> Float[ndarray, "m"]:
    if not parents:
        return np.zeros(0)
    if base_known:
        return nonnegative(total[np.ix_(parents, parents)], total[parents, child])
    rows = [*parents, 0]
    deltas = total[np.ix_(rows, rows)].copy()
    cross = total[rows, child].copy()
    deltas[-1] = deltas[:, -1] = cross[-1] = 0.0  # the reference itself, whose task vector is zero
    shifted = deltas - cross[:, None] - cross[None, :] + total[child, child]
    return nearest_to_origin(shifted)[:-1]


def nonnegative(products: Float[ndarray, "m m"], cross: Float[ndarray, "m"]) -> Float[ndarray, "m"]:
    """Solve min ‖Σ a_i δ_i − δ‖ over a ≥ 0, from inner products."""
    scale = np.sqrt(np.diagonal(products))
    values, vectors = np.linalg.eigh(products / np.outer(scale, scale))
    kept = values > 1e-13 * values[-1]
    root = np.sqrt(values[kept])
    design = root[:, None] * vectors[:, kept].T
    target = (vectors[:, kept].T @ (cross / scale)) / root
    return np.asarray(nnls(design, target)[0] / scale)


def _residual(
    total: Float[ndarray, "n n"], child: int, parents: list[int], weights: Float[ndarray, "m"]
) -> float:
    """Return the squared residual relative to the model's own squared norm."""
    inside = total[np.ix_(parents, parents)]
    left = total[child, child] - 2 * weights @ total[parents, child] + weights @ inside @ weights
    return max(float(left), 0.0) / float(total[child, child])


def _tensor_residual(tensor: Float[ndarray, "n n"], child: int, parents: list[int]) -> float:
    """Return the squared residual of one tensor, whose coefficients are free, the reference's too."""
    rows = [index for index in [0, *parents] if tensor[index, index] > 0]
    if not rows or tensor[child, child] <= 0:
        return max(float(tensor[child, child]), 0.0)
    scale = np.sqrt(np.diagonal(tensor)[rows])
    inside = tensor[np.ix_(rows, rows)] / np.outer(scale, scale)
    weights = np.linalg.lstsq(inside, tensor[rows, child] / scale, rcond=1e-12)[0]
    left = tensor[child, child] - 2 * weights @ (tensor[rows, child] / scale) + weights @ inside @ weights
    return max(float(left), 0.0)
