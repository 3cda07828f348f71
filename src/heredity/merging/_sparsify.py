"""Ways to thin a task vector: by magnitude (TIES, Breadcrumbs), at random (DARE), by rank (DELLA)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.kernels.masks import keep_at_random, keep_between, keep_by_rank
from heredity.kernels.select import DIGITS, count_high, count_low, descend
from heredity.merging._method import TensorBlocks

_LARGEST = 0x7FFFFFFF


class Everything(NamedTuple):
    """Keep all (density 1 and above)."""

    def thin(self, delta: Float32[ndarray, "n"], start: int, seen: Int64[ndarray, "2"]) -> None:
        """Change nothing."""


class Nothing(NamedTuple):
    """Keep nothing (density 0)."""

    def thin(self, delta: Float32[ndarray, "n"], start: int, seen: Int64[ndarray, "2"]) -> None:
        """Zero a block."""
        delta[:] = 0


class Chance(NamedTuple):
    """Keep each element with probability limit / 2³²."""

    limit: int
    key: int

    def thin(self, delta: Float32[ndarray, "n"], start: int, seen: Int64[ndarray, "2"]) -> None:
        """Zero what is not drawn."""
        keep_at_random(delta, start, np.uint64(self.key), np.uint64(self.limit))


class RankedChance(NamedTuple):
    """Keep each element with a probability linear in its magnitude rank in its row."""

    density: float
    epsilon: float
    width: int
    key: int

    def thin(self, delta: Float32[ndarray, "n"], start: int, seen: Int64[ndarray, "2"]) -> None:
        """Zero what is not drawn; a block holds whole rows."""
        keep_by_rank(delta, self.width, start, np.uint64(self.key), self.density, self.epsilon)


class Between(NamedTuple):
    """Keep magnitudes between two ends, given as bits; ties at the ends by index."""

    low: int
    high: int
    quota_low: int
    skip_high: int

    def thin(self, delta: Float32[ndarray, "n"], start: int, seen: Int64[ndarray, "2"]) -> None:
        """Zero what is outside; `seen` counts the ties of earlier blocks."""
        keep_between(delta, self.low, self.high, self.quota_low, self.skip_high, seen)


class Band(NamedTuple):
    """Keep the `taken` largest below the `skipped` largest; `resolve` finds their magnitudes."""

    skipped: int
    taken: int


Sparsifier = Everything | Nothing | Chance | RankedChance | Between


def top_share(density: float, size: int) -> Sparsifier | Band:
    """Return what keeps the int(density · size) largest, at least one where the density is above 0."""
    if density >= 1:
        return Everything()
    return Band(0, max(1, int(density * size))) if density > 0 and size else Nothing()


def below_outliers(density: float, gamma: float, size: int) -> Sparsifier | Band:
    """Return what drops the int(gamma · size) largest and keeps the int(density · size) just below."""
    if density >= 1:
        return Everything()
    kept = int(density * size)
    smallest = max(0, size - kept - int(gamma * size))  # fewer outliers go where the density leaves no room
    return Band(size - smallest - kept, kept) if kept else Nothing()


def at_random(density: float, draw_key: int) -> Sparsifier | Band:
    """Return what keeps each element with probability `density`."""
    if density >= 1:
        return Everything()
    return Chance(round(density * 2**32), draw_key) if density > 0 else Nothing()


def at_random_by_rank(density: float, epsilon: float, width: int, draw_key: int) -> Sparsifier | Band:
    """Return what keeps small elements with density − epsilon, large ones with density + epsilon.

    Raises:
        ConfigError: a probability would leave (0, 1).
    """
    if density >= 1:
        return Everything()
    if density <= 0:
        return Nothing()
    if density + epsilon >= 1 or density - epsilon <= 0:
        raise ConfigError(f"density {density} ± epsilon {epsilon} leaves (0, 1)", "choose a smaller epsilon")
    return RankedChance(density, epsilon, width, draw_key)


def resolve(asked: Sequence[Sparsifier | Band], blocks: TensorBlocks) -> list[Sparsifier]:
    """Replace every band of ranks by its exact ends, in two counting passes over the tensor."""
    bands = {i: band for i, band in enumerate(asked) if isinstance(band, Band)}
    if not bands:
        return [thin for thin in asked if not isinstance(thin, Band)]
    tops = {i: np.zeros(DIGITS // 2, np.int64) for i in bands}
    for block in blocks:
        for i, counts in tops.items():
            count_high(np.subtract(block.models[i], block.base, out=block.models[i]), counts)
    # of both ends of each band, counted from the top: first digit, and rank within it
    ends = {
        i: [descend(tops[i], rank) for rank in (b.skipped, b.skipped + b.taken - 1)] for i, b in bands.items()
    }
    lows = {(i, digit): np.zeros(DIGITS, np.int64) for i, pair in ends.items() for digit, _ in pair}
    for block in blocks:
        for i in bands:
            np.subtract(block.models[i], block.base, out=block.models[i])
        for (i, digit), counts in lows.items():
            count_low(block.models[i], digit, counts)
    found: list[Sparsifier] = []
    for i, thin in enumerate(asked):
        if isinstance(thin, Band):
            high, low = (_end(digit, rank, lows[i, digit]) for digit, rank in ends[i])
            skips = thin.skipped > 0
            found.append(Between(low[0], high[0] if skips else _LARGEST, low[1] + 1, high[1] if skips else 0))
        else:
            found.append(thin)
    return found


def _end(digit: int, rank: int, counts: Int64[ndarray, "digits"]) -> tuple[int, int]:
    """Return the bits of the element at a rank within a top digit, and its rank among its equals."""
    lower, within = descend(counts, rank)
    return digit << 16 | lower, within
