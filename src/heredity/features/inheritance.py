"""What a merge took from each parent, what became of theirs, and which features all members share.

A latent of the merge is matched in a parent when it has a partner there with r ≥ τ and enough joint firings;
seen with the grandparent it is old (matched in the root), learned (in a parent only) or new (in none).
Floors: the same with all of the other members shifted together within domains; the ceiling is the share of
the merge's own latents that its second seed finds again.
"""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool
from numpy import ndarray

from heredity.features.correlate import best_against
from heredity.features.lineage import Lineage
from heredity.features.nulls import sampled, shifted
from heredity.features.verdicts import eligible
from heredity.seeds import generator

_Marks = dict[str, Bool[ndarray, " latents"]]


def tables(lineage: Lineage) -> dict[str, pl.DataFrame]:
    """Return the tables `inheritance` (of every member with two parents) and `universal`."""
    rows = [
        row for child in lineage.members if len(lineage.parents(child)) == 2 for row in _merge(lineage, child)
    ]
    schema = {
        "merge": pl.String, "left": pl.String, "right": pl.String, "of": pl.String, "kind": pl.String,
        "share": pl.Float64, "count": pl.Float64, "floor": pl.Float64, "ceiling": pl.Float64,
    }  # fmt: skip
    return {"inheritance": pl.DataFrame(rows, schema=schema), "universal": universal(lineage)}


def universal(lineage: Lineage) -> pl.DataFrame:
    """List the latents of the root's first seed that are matched in every other member's first seed.

    Columns: index, member, seed, latent, r_min (the least r to the root's latent over the members).
    """
    root = lineage.root
    others = [name for name in lineage.members if name != root]
    sides = {name: lineage.comparison(root, 0, name, 0).parent for name in others}
    kept = lineage.members[root][0].firings >= lineage.settings.min_firings
    for side in sides.values():
        kept &= side.persists
    latents = np.flatnonzero(kept)
    least = (
        np.min([side.match_r[latents] for side in sides.values()], axis=0)
        if others
        else np.ones(len(latents))
    )
    order = np.lexsort((latents, -least))
    rows = []
    for index, at in enumerate(order):
        for name in lineage.members:
            own = latents[at] if name == root else sides[name].match[latents[at]]
            rows.append(
                {
                    "index": index, "member": name, "seed": 0, "latent": int(own),
                    "r_min": float(least[at]),
                }
            )  # fmt: skip
    schema = {
        "index": pl.Int64,
        "member": pl.String,
        "seed": pl.Int64,
        "latent": pl.Int64,
        "r_min": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema)


def _merge(lineage: Lineage, merge: str) -> list[dict[str, Any]]:
    left, right = lineage.parents(merge)
    grandparents = list(dict.fromkeys([*lineage.parents(left), *lineage.parents(right)]))
    sources = [left, right, *(g for g in grandparents if g not in (left, right))]
    observed: dict[str, list[tuple[float, float]]] = {}
    for t in range(len(lineage.members[merge])):
        for s in range(len(lineage.members[left])):
            if lineage.related(s, t):
                continue
            can = eligible(lineage.members[merge][t], lineage.settings)
            found = {name: _found(lineage, name, s, merge, t) for name in sources}
            for kind, marks in _kinds(found, left, right, can).items():
                observed.setdefault(kind, []).append(
                    (float(marks[can].mean()) if can.any() else 0.0, marks.sum())
                )
    floors = _floors(lineage, merge, sources, left, right)
    end = lineage.ceiling(merge)
    ceiling = None if end is None else float(end.curve[lineage.settings.at])
    rows = [
        {
            "merge": merge, "left": left, "right": right, "of": "", "kind": kind,
            "share": float(np.mean([share for share, _ in seen])),
            "count": float(np.mean([count for _, count in seen])),
            "floor": floors.get(kind), "ceiling": ceiling,
        }
        for kind, seen in observed.items()
    ]  # fmt: skip
    for parent in (left, right):
        result, at = lineage.result(parent, merge), lineage.settings.at
        sides = [both.parent for both in result.comparisons]
        top = None if result.ceiling is None else float(result.ceiling[0][at])
        for kind, which in (("kept", "persists"), ("lost", "disappears"), ("undecided", "undecided")):
            rows.append(
                {
                    "merge": merge, "left": left, "right": right, "of": parent, "kind": kind,
                    "share": float(np.mean([side.share(getattr(side, which)) for side in sides])),
                    "count": float(np.mean([(getattr(side, which) & side.eligible).sum() for side in sides])),
                    # Only what is kept has a floor and a ceiling; the rest is lost or undecided by its bound.
                    "floor": float(result.floor.mean[at]) if kind == "kept" else None,
                    "ceiling": top if kind == "kept" else None,
                }
            )  # fmt: skip
    return rows


def _found(lineage: Lineage, source: str, s: int, merge: str, t: int) -> Bool[ndarray, " latents"]:
    """Mark the merge's latents that are matched in a source; seeds are paired by position."""
    s = s % len(lineage.members[source])
    return lineage.comparison(source, s, merge, t).child.persists


def _kinds(found: _Marks, left: str, right: str, can: Bool[ndarray, " latents"]) -> _Marks:
    in_left, in_right = found[left], found[right]
    kinds = {
        "left only": can & in_left & ~in_right,
        "right only": can & in_right & ~in_left,
        "both": can & in_left & in_right,
        "neither": can & ~in_left & ~in_right,
    }
    older = [marks for name, marks in found.items() if name not in (left, right)]
    if older:
        old = np.logical_or.reduce(older)
        kinds |= {
            "old": can & old,
            "learned": can & ~old & (in_left | in_right),
            "new": can & ~old & ~in_left & ~in_right,
        }
    return kinds


def _floors(lineage: Lineage, merge: str, sources: list[str], left: str, right: str) -> dict[str, float]:
    settings = lineage.settings
    own = lineage.members[merge]
    shares: dict[str, list[float]] = {}
    for shift in range(settings.shifts):
        a = own[shift % len(own)]
        draw = generator(lineage.seed, "floor inheritance", merge, shift)
        rows = sampled(eligible(a, settings), settings.floor_share, draw)
        beside = shifted(lineage.documents, a.meta.context, draw)
        found = {}
        for name in sources:
            others = lineage.members[name]
            _, r = best_against(
                a, others[shift // len(own) % len(others)], rows, beside,
                top=settings.top, min_joint=settings.min_joint, least=settings.tau,
            )  # fmt: skip
            found[name] = r >= settings.tau
        for kind, marks in _kinds(found, left, right, np.ones(len(rows), bool)).items():
            shares.setdefault(kind, []).append(float(marks.mean()) if len(rows) else 0.0)
    return {kind: float(np.mean(seen)) for kind, seen in shares.items()}
