"""Ways to thin a task vector: by magnitude (TIES, Breadcrumbs), at random (DARE), by rank (DELLA)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.kernels.masks import keep_at_random, keep_between, keep_by_rank
from heredity.merging._ends import End, Found, magnitudes
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
    """Replace every band of ranks by its exact ends, in a pass or two over the tensor."""
    bands = {i: band for i, band in enumerate(asked) if isinstance(band, Band)}
    lasts = {i: End(i, band.skipped + band.taken - 1) for i, band in bands.items()}
    firsts = {i: End(i, band.skipped) for i, band in bands.items() if band.skipped}
    ends = magnitudes([*lasts.values(), *firsts.values()], blocks) if bands else {}
    found: list[Sparsifier] = []
    for i, thin in enumerate(asked):
        if isinstance(thin, Band):
            low = ends[lasts[i]]
            high = ends[firsts[i]] if thin.skipped else Found(_LARGEST, 0)
            found.append(Between(low.bits, high.bits, low.within + 1, high.within))
        else:
            found.append(thin)
    return found
