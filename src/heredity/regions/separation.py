"""P_B: how often a model of one group has a lower loss than a model of another, with an interval.

    P_B(good, bad) = P(good < bad) + ½ P(good = bad) = 1 − U(good, bad) / (n m)

over all pairs, U as `scipy.stats.mannwhitneyu` counts it.  Source: Gueta et al. 2023, arXiv 2302.04863,
section 4; the paper writes P(good ≤ bad) and its code P(good < bad): both are given, with the share of ties.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from heredity import seeds
from heredity.errors import ConfigError


class Separation(msgspec.Struct, frozen=True, kw_only=True):
    """P_B of two groups of losses.

    Attributes:
        p_b: share of pairs in which the first is lower, ties counted half.
        strict: ties counted as losses.
        loose: ties counted as wins.
        ties: share of pairs with equal losses.
        low: lower end of the middle 95 % of resamples; equal to `p_b` without resamples.
        high: upper end.
        n: size of the first group.
        m: size of the second.
        draws: how many resamples.
    """

    p_b: float
    strict: float
    loose: float
    ties: float
    low: float
    high: float
    n: int
    m: int
    draws: int


def p_b(good: Sequence[float] | ndarray, bad: Sequence[float] | ndarray) -> float:
    """Return P(good < bad) + ½ P(good = bad); an infinite loss is the worst, and ties with its like.

    >>> p_b([1.0, 2.0], [2.0, 3.0])
    0.875
    """
    lower, equal = _pairs(_checked(good), _checked(bad))
    return lower + equal / 2


def separation(
    good: Sequence[float] | ndarray,
    bad: Sequence[float] | ndarray,
    redraws: Sequence[tuple[Float[ndarray, " a"], Float[ndarray, " b"]]] = (),
) -> Separation:
    """Give P_B with its interval.

    Args:
        good: losses of the first group.
        bad: losses of the second.
        redraws: both groups drawn anew, once for each resample; see `resampled` and `resampled_members`.
    """
    good, bad = _checked(good), _checked(bad)
    strict, ties = _pairs(good, bad)
    value = strict + ties / 2
    chance = np.array([p_b(a, b) for a, b in redraws]) if redraws else np.array([value])
    low, high = np.quantile(chance, [0.025, 0.975])
    return Separation(
        p_b=value, strict=strict, loose=strict + ties, ties=ties, low=float(low), high=float(high),
        n=len(good), m=len(bad), draws=len(redraws),
    )  # fmt: skip


def resampled_members(count: int, draws: int, *, seed: int, name: str) -> list[ndarray]:
    """Draw `count` members with replacement, `draws` times: int64[count] each, at least two of them different."""
    rng = seeds.generator(seed, "resampled members", name)
    found: list[ndarray] = []
    while len(found) < draws:
        rows = rng.integers(count, size=count)
        if count < 2 or len(np.unique(rows)) > 1:
            found.append(rows)
    return found


def resampled(
    losses: Float[ndarray, " n"], draws: int, *, seed: int, name: str
) -> list[Float[ndarray, " n"]]:
    """Draw as many losses with replacement, `draws` times."""
    rng = seeds.generator(seed, "resampled losses", name)
    return [losses[rng.integers(len(losses), size=len(losses))] for _ in range(draws)]


def _pairs(good: Float[ndarray, " n"], bad: Float[ndarray, " m"]) -> tuple[float, float]:
    ordered = np.sort(bad)
    above = len(bad) - np.searchsorted(ordered, good, side="right")
    at_least = len(bad) - np.searchsorted(ordered, good, side="left")
    pairs = len(good) * len(bad)
    return float(above.sum() / pairs), float((at_least - above).sum() / pairs)


def _checked(losses: Sequence[float] | ndarray) -> Float[ndarray, " n"]:
    values = np.asarray(losses, np.float64)
    if values.ndim != 1 or not len(values):
        raise ConfigError(f"losses of shape {list(values.shape)}", "P_B compares two lists of losses")
    if np.isnan(values).any():
        raise ConfigError("a loss is not a number", "a model without a finite loss has an infinite one")
    return values
