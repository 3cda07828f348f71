"""The table `matchings`: each edge by each of the three matchings, with floor, false discoveries and ceiling."""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64
from numpy import ndarray

from heredity.features.lineage import EdgeResult, Lineage
from heredity.features.matchings import NAMES, Matching, Name, match
from heredity.features.nulls import Floor, false_discovery
from heredity.features.tables import Decoders, cosines
from heredity.features.verdicts import Comparison, Tracking, matched_curve
from heredity.seeds import generator

_SCHEMA = {
    "parent": pl.String, "child": pl.String, "matching": pl.String, "tau": pl.Float64, "persist": pl.Float64,
    "persist_min": pl.Float64, "persist_max": pl.Float64, "persist_child": pl.Float64, "floor": pl.Float64,
    "floor_p95": pl.Float64, "fdr": pl.Float64, "fdr_high": pl.Float64, "ceiling": pl.Float64,
    "decoder_cosine_median": pl.Float64, "decoder_cosine_null": pl.Float64,
}  # fmt: skip
_DEALT = 2000
"""Pairs of latents of a pair of seeds whose partners are exchanged, at each τ."""
_Curves = tuple[Float64[ndarray, " taus"], Float64[ndarray, " taus"]]


def matching_table(lineage: Lineage, decoders: Decoders | None = None) -> pl.DataFrame:
    """Measure every edge by every matching, over the whole grid of τ.

    Args:
        lineage: the comparisons; none is made that `Lineage.results` does not make.
        decoders: W_dec of each member and seed, for the decoder cosine of what is matched.

    Returns:
        one row per edge, matching and τ; persist_min and persist_max are over the pairs of seeds.
        decoder_cosine_null is the median once the partners are dealt out anew among the latents matched at that τ.
    """
    rows = [
        row
        for name in NAMES
        for ceilings in [{member: _ceiling(lineage, member, name) for member in lineage.members}]
        for result in lineage.results()
        for row in _rows(lineage, result, name, ceilings, decoders)
    ]
    return pl.DataFrame(rows, schema=_SCHEMA).with_columns(pl.col("fdr", "fdr_high").fill_nan(None))


def both_ways(both: Comparison, name: Name, settings: Tracking) -> tuple[Matching, Matching]:
    """Return a matching from the parent's side and from the child's."""
    there, back = both.parent.candidates, both.child.candidates
    least = float(settings.taus[0])
    forward = match(name, there, back, min_joint=settings.min_joint, least=least)
    if name == "best":
        return forward, match(name, back, there, min_joint=settings.min_joint, least=least)
    return forward, forward.reversed(len(back.r))


def _rows(
    lineage: Lineage,
    result: EdgeResult,
    name: Name,
    ceilings: dict[str, Float64[ndarray, " taus"] | None],
    decoders: Decoders | None,
) -> list[dict[str, Any]]:
    settings = lineage.settings
    matched = [both_ways(both, name, settings) for both in result.comparisons]
    seen = [_curves(both, pair, settings) for both, pair in zip(result.comparisons, matched, strict=True)]
    parent, child = (np.array([curves[side] for curves in seen]) for side in (0, 1))
    persist = parent.mean(axis=0)
    shifted = result.floor.curves if name == "best" else result.floor.one_to_one[name]
    floor = Floor(shifted, {}, result.floor.r, result.floor.split)
    # Documents are resampled for the best matching only; the bound of the others rests on the shifts alone.
    fdr, fdr_high = result.false_discovery if name == "best" else false_discovery(persist, floor)
    ends = ceilings[result.parent], ceilings[result.child]
    ceiling = None if ends[0] is None or ends[1] is None else np.sqrt(ends[0] * ends[1])
    cosine: list[tuple[float | None, float | None]] = [(None, None)] * len(settings.taus)
    if decoders is not None:
        cosine = _cosines(result, matched, decoders, settings.taus, (lineage.seed, name))
    rows = []
    for at, tau in enumerate(settings.taus):
        rows.append({
            "parent": result.parent, "child": result.child, "matching": name, "tau": float(tau),
            "persist": float(persist[at]), "persist_min": float(parent[:, at].min()),
            "persist_max": float(parent[:, at].max()), "persist_child": float(child[:, at].mean()),
            "floor": float(floor.mean[at]), "floor_p95": float(floor.p95[at]), "fdr": float(fdr[at]),
            "fdr_high": float(fdr_high[at]), "ceiling": None if ceiling is None else float(ceiling[at]),
            "decoder_cosine_median": cosine[at][0], "decoder_cosine_null": cosine[at][1],
        })  # fmt: skip
    return rows


def _ceiling(lineage: Lineage, member: str, name: Name) -> Float64[ndarray, " taus"] | None:
    n = len(lineage.members[member])
    if n < 2:
        return None
    curves: list[Float64[ndarray, " taus"]] = []
    for s in range(n):
        for t in range(s + 1, n):
            both = lineage.comparison(member, s, member, t)
            curves += _curves(both, both_ways(both, name, lineage.settings), lineage.settings)
    mean: Float64[ndarray, " taus"] = np.mean(curves, axis=0)
    return mean


def _curves(both: Comparison, matched: tuple[Matching, Matching], settings: Tracking) -> _Curves:
    parent, child = (
        matched_curve(one.r[side.eligible], settings)
        for one, side in zip(matched, (both.parent, both.child), strict=True)
    )
    return parent, child


def _cosines(
    result: EdgeResult, matched: list[tuple[Matching, Matching]], decoders: Decoders, taus: Float64[ndarray, " taus"],
    key: tuple[int, str],
) -> list[tuple[float | None, float | None]]:  # fmt: skip
    """Return for each τ the median decoder cosine of what is matched, and that with partners dealt out anew.

    The rows of a decoder have directions in common: two that were never matched do not have a cosine of 0. Partners
    are dealt among the latents matched at the same τ, at most `_DEALT` of a pair of seeds.
    """
    pairs = []
    for (s, t), both, (forward, _) in zip(result.pairs, result.comparisons, matched, strict=True):
        own = np.flatnonzero((forward.partner >= 0) & both.parent.eligible)
        rows, partner = (decoders[result.parent][s], decoders[result.child][t]), forward.partner[own]
        draw = generator(key[0], "decoder cosine", result.parent, result.child, key[1], s, t)
        pairs.append((forward.r[own], cosines(*rows, own, partner), own, partner, rows, draw))
    medians = []
    for tau in taus:
        angles, chance = [], []
        for r, angle, own, partner, rows, draw in pairs:
            angles.append(angle[r >= tau])
            dealt = draw.permutation(np.flatnonzero(r >= tau))[:_DEALT]
            if len(dealt) > 1:  # in a ring, so that no latent gets its own partner back
                chance.append(cosines(*rows, own[dealt], partner[np.roll(dealt, 1)]))
        medians.append((_median(np.concatenate(angles)), _median(np.concatenate([np.zeros(0), *chance]))))
    return medians


def _median(values: Float64[ndarray, " n"]) -> float | None:
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else None
