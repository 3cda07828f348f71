"""What became of each latent between two SAEs: persists, disappears, undecided; from the child: emerges.

For a latent with at least `min_firings` firings of its own:

- it **persists** when a partner has r ≥ τ and at least `min_joint` joint firings;
- it **disappears** when the upper bound of its best r is below τ, however few the joint firings;
- else it is **undecided**.

Fewer firings make it rare. It **splits** when it does not persist, and at least two partners from `split_tau`
on explain it together: Σ r² ≥ τ² (partners that fire on disjoint tokens add up so). Seen from the child:
**fuses**.
"""

from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float64, Int64
from msgspec import Meta, Struct
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.features.codes import Codes
from heredity.features.correlate import Candidates, Matches, correlate
from heredity.features.matchings import best
from heredity.features.resample import NEAR, Bounds, Resampler, Totals

_Share = Annotated[float, Meta(gt=0, le=1)]


_LEAST_TAU = 0.3


class Tracking(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a lineage.

    Attributes:
        tau: r of a match.
        split_tau: r of a part, where several make up one latent.
        min_firings: firings of its own that make a latent eligible.
        min_joint: joint firings of a match.
        top: candidates kept per latent.
        shifts: shifted copies behind each floor.
        floor_share: share of the eligible latents, drawn anew, that each shift is measured on.
        resamples: draws of documents and seeds behind each interval.
    """

    tau: _Share = 0.8
    split_tau: _Share = 0.4
    min_firings: Annotated[int, Meta(ge=1)] = 50
    min_joint: Annotated[int, Meta(ge=1)] = 50
    top: Annotated[int, Meta(ge=1)] = 8
    shifts: Annotated[int, Meta(ge=20)] = 20
    floor_share: _Share = 0.25
    resamples: Annotated[int, Meta(ge=20)] = 200

    def __post_init__(self) -> None:
        if self.tau < _LEAST_TAU:
            raise ConfigError(
                f"tau {self.tau} is below {_LEAST_TAU}, where the τ curve begins",
                "a match correlates more than that",
            )
        if self.split_tau > self.tau:
            raise ConfigError(
                f"split_tau {self.split_tau} is above tau {self.tau}", "a part correlates less than a match"
            )

    @property
    def taus(self) -> Float64[ndarray, " taus"]:
        """The grid of the τ curve; τ itself is on it."""
        return np.unique(np.round([*np.arange(0.3, 0.96, 0.05), self.tau], 6))

    @property
    def at(self) -> int:
        """Place of τ on the grid."""
        return int(np.searchsorted(self.taus, round(self.tau, 6)))


class Side(Struct, frozen=True, eq=False):
    """One SAE's latents and what the other SAE has of them.

    Attributes:
        candidates: best partners.
        firings: tokens on which each latent fires.
        eligible: fires often enough to be judged.
        best_r: r of the best partner, 0 without one.
        match: the best partner with enough joint firings, −1 without one.
        match_r: its r.
        bounds: intervals.
        persists, disappears, splits: verdicts.
        curve: share of the eligible that is matched, for each τ of the grid.
    """

    candidates: Candidates
    firings: Int64[ndarray, " latents"]
    eligible: Bool[ndarray, " latents"]
    best_r: Float64[ndarray, " latents"]
    match: Int64[ndarray, " latents"]
    match_r: Float64[ndarray, " latents"]
    bounds: Bounds
    persists: Bool[ndarray, " latents"]
    disappears: Bool[ndarray, " latents"]
    splits: Bool[ndarray, " latents"]
    curve: Float64[ndarray, " taus"]

    @property
    def undecided(self) -> Bool[ndarray, " latents"]:
        """Eligible, and neither."""
        return self.eligible & ~self.persists & ~self.disappears

    @property
    def rare(self) -> Bool[ndarray, " latents"]:
        """Fires, but too seldom to be judged."""
        return (self.firings > 0) & ~self.eligible

    def share(self, which: Bool[ndarray, " latents"]) -> float:
        """Return the share of the eligible latents that `which` marks."""
        return float((which & self.eligible).sum() / max(1, int(self.eligible.sum())))


class Comparison(Struct, frozen=True, eq=False):
    """Two SAEs over the same tokens, seen from both sides."""

    parent: Side
    child: Side


def compare(
    parent: Codes,
    child: Codes,
    parent_totals: Totals,
    child_totals: Totals,
    resampler: Resampler,
    settings: Tracking,
) -> Comparison:
    """Correlate two SAEs' codes and judge every latent of both."""
    matches = correlate(parent, child, top=settings.top, threshold=settings.split_tau, count_from=NEAR)
    parts = of_parts(matches, settings)
    totals = parent_totals, child_totals
    return Comparison(
        _side(parent, child, totals, matches.forward, parts[0], resampler, settings),
        _side(child, parent, totals[::-1], matches.backward, parts[1], resampler, settings),
    )


def eligible(codes: Codes, settings: Tracking) -> Bool[ndarray, " latents"]:
    """Mark the latents that fire often enough to be judged."""
    marked: Bool[ndarray, " latents"] = codes.firings >= settings.min_firings
    return marked


def matched_curve(r: Float64[ndarray, " n"], settings: Tracking) -> Float64[ndarray, " taus"]:
    """Return the share of r at or above each τ of the grid."""
    curve: Float64[ndarray, " taus"] = (
        (r[:, None] >= settings.taus).mean(axis=0) if len(r) else np.zeros(len(settings.taus))
    )
    return curve


def _side(
    a: Codes, b: Codes, totals: tuple[Totals, Totals], candidates: Candidates,
    made_of_parts: Bool[ndarray, " latents"], resampler: Resampler, settings: Tracking,
) -> Side:  # fmt: skip
    can = eligible(a, settings)
    found = best(candidates, settings.min_joint)
    bounds = resampler.bounds(
        a,
        b,
        *totals,
        candidates,
        eligible=can,
        min_joint=settings.min_joint,
        taus=settings.taus,
        at=settings.at,
    )
    persists = can & (found.r >= settings.tau)
    return Side(
        candidates=candidates,
        firings=a.firings,
        eligible=can,
        best_r=candidates.r[:, 0],
        match=found.partner,
        match_r=found.r,
        bounds=bounds,
        persists=persists,
        disappears=can & ~persists & (bounds.high < settings.tau),
        splits=can & ~persists & made_of_parts,
        curve=matched_curve(found.r[can], settings),
    )


def of_parts(matches: Matches, settings: Tracking) -> tuple[Bool[ndarray, " a"], Bool[ndarray, " b"]]:
    """Mark the latents of each side that several of the other explain together.

    Args:
        matches: with every pair from `split_tau` on.
        settings: τ and the firings that count.
    """
    ok = matches.joint >= settings.min_joint
    out = []
    for latent, n in ((matches.first[ok], matches.a.d_sae), (matches.second[ok], matches.b.d_sae)):
        explained = np.bincount(latent, np.square(matches.r[ok]), minlength=n)
        out.append((np.bincount(latent, minlength=n) >= 2) & (explained >= settings.tau**2))
    return out[0], out[1]
