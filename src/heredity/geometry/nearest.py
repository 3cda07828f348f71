"""Which base a model grew from: the nearest candidate in weight space, beside what a stranger scores.

The score is the correlation of the raw weights, element by element. Two models that share no ancestor pair
their elements at random: the closed-form null of `nulls` gives the z score and p-value. Distance alone would
    not do,
as every model is some distance away.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.geometry.nulls import relatedness, shuffled_elements

STRANGER = 0.05
"""Below this correlation a model is called unrelated even where many elements make a tiny one significant."""


class Nearest(msgspec.Struct, frozen=True):
    """The nearest candidate base of one model.

    Attributes:
        base: index of the candidate, as in the matrices given.
        correlation: of the raw weights with that base.
        distance: ‖w − w_base‖ / ‖w‖.
        null_distance: the same, had the elements been paired at random.
        z: of the correlation, under pairing at random.
        p_value: one-sided, times the number of candidates (Bonferroni), at most 1.
        related: p ≤ alpha and correlation ≥ `STRANGER`.
        margin: distance of the second candidate over that of the first; inf without a second.
    """

    base: int
    correlation: float
    distance: float
    null_distance: float
    z: float
    p_value: float
    related: bool
    margin: float


def nearest(
    raw: Float[ndarray, "t k k"],
    sums: Float[ndarray, "t k"],
    sizes: Int[ndarray, "t"],
    model: int,
    candidates: Sequence[int],
    *,
    alpha: float = 0.001,
) -> Nearest:
    """Find the nearest of some candidate bases.

    Args:
        raw: inner products of the weights themselves (not task vectors), per tensor. Give weight matrices
            only: norms and biases are alike in all models.
        sums: of the weights, per tensor.
        sizes: elements of each tensor.
        model: index of the model in question.
        candidates: indices of the bases; the model itself is left out.
        alpha: level of the test.

    Raises:
        ConfigError: there is no candidate besides the model.
    """
    others = [index for index in candidates if index != model]
    if not others:
        raise ConfigError("no candidate base besides the model itself", "name at least one base")
    total = raw.sum(axis=0)
    correlation, z, p_value = relatedness(raw, sums, sizes)
    at_random, _ = shuffled_elements(raw, sums, sizes)
    norms = np.diagonal(total)
    own = max(float(norms[model]), np.finfo(float).tiny)

    def relative(inner: float, other: int) -> float:
        return float(np.sqrt(max(own + float(norms[other]) - 2 * inner, 0.0) / own))

    ranked = sorted(others, key=lambda other: (relative(total[model, other], other), other))
    best = ranked[0]
    first = relative(total[model, best], best)
    second = relative(total[model, ranked[1]], ranked[1]) if len(ranked) > 1 else np.inf
    p = min(1.0, float(p_value[model, best]) * len(others))
    return Nearest(
        base=best,
        correlation=float(correlation[model, best]),
        distance=first,
        null_distance=relative(at_random[model, best], best),
        z=float(z[model, best]),
        p_value=p,
        related=p <= alpha and float(correlation[model, best]) >= STRANGER,
        margin=float(second / first) if first > 0 else np.inf,
    )
