"""P_B: how often a model of one group has a lower loss than a model of another, with an interval.

    P_B(good, bad) = P(good < bad) + ½ P(good = bad) = 1 − U(good, bad) / (n m)

over all pairs, U as `scipy.stats.mannwhitneyu` counts it.  Source: Gueta et al. 2023, arXiv 2302.04863,
section 4; the paper writes P(good ≤ bad) and its code P(good < bad): both are given, with the share of ties.
"""

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations
from math import comb

import msgspec
import numpy as np
from jaxtyping import Float, Int64
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
    again = np.array([p_b(a, b) for a, b in redraws]) if redraws else np.array([value])
    low, high = np.quantile(again, [0.025, 0.975])
    return Separation(
        p_b=value, strict=strict, loose=strict + ties, ties=ties, low=float(low), high=float(high),
        n=len(good), m=len(bad), draws=len(redraws),
    )  # fmt: skip


def resampled_members(
    units: Sequence[Hashable], draws: int, *, seed: int, name: str
) -> list[Int64[ndarray, " _"]]:
    """Draw whole units with replacement, `draws` times; give the rows of their members.

    Args:
        units: of each member, such as its data set: fine-tunes of one set are alike, and count as one draw. Where
            all members are of one unit, the members themselves are drawn.
        draws: how many samples; at least two different units are in each, where there are two.
        seed: of the draws.
        name: keys them.
    """
    groups = _rows_of(units)
    rng = seeds.generator(seed, "resampled members", name)
    found: list[ndarray] = []
    while len(found) < draws:
        drawn = rng.integers(len(groups), size=len(groups))
        if len(groups) < 2 or len(np.unique(drawn)) > 1:
            found.append(np.concatenate([groups[unit] for unit in drawn]))
    return found


def resampled(
    losses: Float[ndarray, " n"], draws: int, *, seed: int, name: str, units: Sequence[Hashable] | None = None
) -> list[Float[ndarray, " _"]]:
    """Draw losses with replacement, `draws` times: as many as there are, or whole units of them.

    Args:
        losses: to draw from.
        draws: how many samples.
        seed: of the draws.
        name: keys them.
        units: of each loss; None draws single losses.
    """
    groups = _rows_of(range(len(losses)) if units is None else units)
    rng = seeds.generator(seed, "resampled losses", name)
    return [
        losses[np.concatenate([groups[unit] for unit in rng.integers(len(groups), size=len(groups))])]
        for _ in range(draws)
    ]


def chance(
    losses: Float[ndarray, " n"], inside: Sequence[bool], units: Sequence[Hashable], *, seed: int, name: str,
    draws: int = 1000,
) -> float:  # fmt: skip
    """Return how often P_B(inside, outside) is as high when other units are called inside: a permutation p-value.

    All choices of as many units are counted where there are no more than `draws` of them, else so many are drawn.
    """
    groups = _rows_of(units)
    mine = np.array([inside[rows[0]] for rows in groups])
    count, observed = int(mine.sum()), p_b(losses[np.array(inside)], losses[~np.array(inside)])

    def as_high(chosen: Sequence[int]) -> bool:
        rows = np.concatenate([groups[unit] for unit in chosen])
        return p_b(losses[rows], np.delete(losses, rows)) >= observed - 1e-12

    if comb(len(groups), count) <= draws:
        return float(np.mean([as_high(chosen) for chosen in combinations(range(len(groups)), count)]))
    rng = seeds.generator(seed, "other units", name)
    hits = sum(as_high(rng.permutation(len(groups))[:count].tolist()) for _ in range(draws))
    return (1 + hits) / (1 + draws)


def _rows_of(units: Iterable[Hashable]) -> list[Int64[ndarray, " _"]]:
    """Return the rows of each unit, by first appearance; single rows where there is one unit only."""
    found: dict[Hashable, list[int]] = {}
    for row, unit in enumerate(units):
        found.setdefault(unit, []).append(row)
    groups = list(found.values())
    if len(groups) == 1:
        groups = [[row] for row in groups[0]]
    return [np.array(rows, np.int64) for rows in groups]


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
