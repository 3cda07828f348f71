"""How far a model is from the centre of a group and from the region its members span.

    min over c ≥ 0, Σ c = 1 of ‖δ − Σ c_i δ_i‖²

is a quadratic programme in as many variables as the group has members. It is solved exactly, by Wolfe's
minimum-norm-point algorithm: finitely many steps, each a small linear system.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from heredity.errors import ConfigError

_EXACT = 1e-12


class HullDistance(msgspec.Struct, frozen=True, eq=False):
    """Where a model lies relative to a group.

    Attributes:
        centroid: distance to the group's mean.
        hull: distance to the convex hull of the group; 0 inside.
        coefficients: of the nearest point of the hull, over the group's members; ≥ 0, sum 1.
        spread: root mean square distance of the members themselves to their mean.
    """

    centroid: float
    hull: float
    coefficients: Float[ndarray, "m"]
    spread: float


def distances(products: Float[ndarray, "k k"], model: int, group: Sequence[int]) -> HullDistance:
    """Measure one model against a group, from inner products about any common origin.

    Args:
        products: inner products of all models' task vectors; add a zero row and column for the base.
        model: index of the model.
        group: indices of the group; the model is left out of it if it is a member.

    Raises:
        ConfigError: the group has no other member.
    """
    group = [index for index in group if index != model]
    if not group:
        raise ConfigError("a group without another member", "name a group of at least one other model")
    cross = products[model, group]
    from_model = products[np.ix_(group, group)] - cross[:, None] - cross[None, :] + products[model, model]
    inside = products[np.ix_(group, group)]
    spread = np.sqrt(max(float(np.trace(inside) / len(group) - inside.mean()), 0.0))
    coefficients = nearest_to_origin(from_model)
    return HullDistance(
        centroid=float(np.sqrt(max(float(from_model.mean()), 0.0))),
        hull=float(np.sqrt(max(float(coefficients @ from_model @ coefficients), 0.0))),
        coefficients=coefficients,
        spread=float(spread),
    )


def nearest_to_origin(products: Float[ndarray, "m m"]) -> Float[ndarray, "m"]:
    """Return the coefficients of the least-norm point in the convex hull of points, from inner products.

    Source: Wolfe 1976, "Finding the nearest point in a polytope", in the inner-product form.
    """
    size = len(products)
    scale = max(float(np.diagonal(products).max()), np.finfo(float).tiny)
    weights = np.zeros(size)
    weights[int(np.diagonal(products).argmin())] = 1.0
    # Each pass lowers the norm, and there are finitely many faces; the bound only guards against rounding.
    for _ in range(100 * size):
        slopes = products @ weights
        entering = int(slopes.argmin())
        if weights[entering] > 0 or weights @ slopes - slopes[entering] <= _EXACT * scale:
            break
        before = float(weights @ slopes)
        proposal = _descend(products, weights, entering, scale)
        if proposal @ products @ proposal >= before:
            break
        weights = proposal
    return weights / weights.sum()


def _descend(
    products: Float[ndarray, "m m"], weights: Float[ndarray, "m"], entering: int, scale: float
) -> Float[ndarray, "m"]:
    """Go to the least-norm point of the face that the entering point spans with the present ones."""
    weights = weights.copy()
    face = [*np.flatnonzero(weights > 0).tolist(), entering]
    while True:
        target = np.zeros(len(weights))
        target[face] = _affine_minimum(products[np.ix_(face, face)], scale)
        if (target[face] > _EXACT).all():
            return target
        leaving = [index for index in face if target[index] <= _EXACT]
        steps = [weights[i] / (weights[i] - target[i]) if weights[i] > target[i] else 0.0 for i in leaving]
        step = min([1.0, *steps])
        weights = (1 - step) * weights + step * target
        gone = leaving[int(np.argmin(steps))]
        weights[gone] = 0.0
        face.remove(gone)


def _affine_minimum(products: Float[ndarray, "m m"], scale: float) -> Float[ndarray, "m"]:
    """Return the coefficients, summing to 1, of the least-norm point of the flat through points."""
    size = len(products)
    system = np.ones((size + 1, size + 1))
    system[:size, :size] = products / scale
    system[size, size] = 0.0
    answer = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0][:size]
    return answer / answer.sum()
