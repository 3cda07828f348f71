"""A lineage's results as tables: edges, tau_curve, r_histogram, matches, flows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64
from numpy import ndarray

from heredity.features.lineage import EdgeResult, Lineage
from heredity.features.verdicts import Comparison, Side

_BINS = np.round(np.arange(0.0, 1.0001, 0.05), 2)
_RANKS = 3
_NULLABLE = (
    "ceiling", "ceiling_low", "ceiling_high", "ceiling_parent", "ceiling_child", "heritability",
    "heritability_low", "heritability_high", "decoder_cosine_median", "fdr", "fdr_high",
    "split_ceiling", "fuse_ceiling",
)  # fmt: skip
Decoders = Mapping[str, Sequence[Float64[ndarray, "d_sae d_in"]]]


def edge_tables(lineage: Lineage, decoders: Decoders | None = None) -> dict[str, pl.DataFrame]:
    """Return the tables of every edge.

    Args:
        lineage: the comparisons.
        decoders: W_dec of each member and seed, for the decoder cosine beside r; members of one family share
            the basis of a site.
    """
    results = lineage.results()
    return {
        "edges": pl.DataFrame(
            [_edge(lineage, r, decoders) for r in results],
            schema_overrides=dict.fromkeys(_NULLABLE, pl.Float64),
        ),
        "tau_curve": pl.concat([_curve(lineage, r) for r in results]),
        "r_histogram": pl.concat([_histogram(lineage, r) for r in results]),
        "matches": pl.concat([_matches(lineage, r, decoders) for r in results]),
        "flows": pl.concat([_flows(r) for r in results]),
    }


def _edge(lineage: Lineage, result: EdgeResult, decoders: Decoders | None) -> dict[str, Any]:
    at, all_of = lineage.settings.at, result.comparisons
    low, high = np.percentile(result.persist[:, at], [2.5, 97.5])
    ratio, ratio_low, ratio_high = result.heritability(at)
    ends = [lineage.ceiling(result.parent), lineage.ceiling(result.child)]
    ceiling_low, ceiling_high = (
        (None, None)
        if result.ceiling is None
        else np.percentile(result.ceiling[1][:, at], [2.5, 97.5]).tolist()
    )
    seeds = max(len(lineage.members[name]) for name in (result.parent, result.child))
    l0 = [float(np.mean([c.l0 for c in lineage.members[name]])) for name in (result.parent, result.child)]

    def mean(of: Any) -> float:
        return float(np.mean([of(c) for c in all_of]))

    return {
        "parent": result.parent,
        "child": result.child,
        "tau": lineage.settings.tau,
        "n_parent": mean(lambda c: c.parent.eligible.sum()),
        "n_child": mean(lambda c: c.child.eligible.sum()),
        "persist": mean(lambda c: c.parent.share(c.parent.persists)),
        "persist_low": float(low),
        "persist_high": float(high),
        "disappear": mean(lambda c: c.parent.share(c.parent.disappears)),
        "undecided": mean(lambda c: c.parent.share(c.parent.undecided)),
        "split": mean(lambda c: c.parent.share(c.parent.splits)),
        "split_floor": float(result.floor.split.mean()),
        "split_ceiling": None if ends[0] is None else ends[0].split,
        "persist_child": mean(lambda c: c.child.share(c.child.persists)),
        "emerge": mean(lambda c: c.child.share(c.child.disappears)),
        "emerge_undecided": mean(lambda c: c.child.share(c.child.undecided)),
        "fuse": mean(lambda c: c.child.share(c.child.splits)),
        "fuse_ceiling": None if ends[1] is None else ends[1].split,
        "rare_parent": mean(lambda c: c.parent.rare.sum()),
        "rare_child": mean(lambda c: c.child.rare.sum()),
        "floor": float(result.floor.mean[at]),
        "floor_p95": float(result.floor.p95[at]),
        "floor_error": float(result.floor.error[at]),
        "n_shifts": len(result.floor.curves),
        "fdr": _known(result.false_discovery[0][at]),
        "fdr_high": _known(result.false_discovery[1][at]),
        "ceiling": None if result.ceiling is None else float(result.ceiling[0][at]),
        "ceiling_low": ceiling_low,
        "ceiling_high": ceiling_high,
        "ceiling_parent": None if ends[0] is None else float(ends[0].curve[at]),
        "ceiling_child": None if ends[1] is None else float(ends[1].curve[at]),
        "heritability": ratio,
        "heritability_low": ratio_low,
        "heritability_high": ratio_high,
        "decided_by": "documents and seeds resampled" + (", conditional on these SAEs" if seeds <= 2 else ""),
        "n_seed_pairs": len(result.pairs),
        "decoder_cosine_median": _cosine_median(result, decoders),
        "l0_parent": l0[0],
        "l0_child": l0[1],
    }


def _curve(lineage: Lineage, result: EdgeResult) -> pl.DataFrame:
    taus = lineage.settings.taus
    low, high = np.percentile(result.persist, [2.5, 97.5], axis=0)
    return pl.DataFrame(
        {
            "parent": [result.parent] * len(taus),
            "child": [result.child] * len(taus),
            "tau": taus,
            "persist": result.persist_curve,
            "persist_low": low,
            "persist_high": high,
            "floor": result.floor.mean,
            "floor_p95": result.floor.p95,
            "fdr": result.false_discovery[0],
            "fdr_high": result.false_discovery[1],
            "ceiling": [None] * len(taus) if result.ceiling is None else result.ceiling[0].tolist(),
            "heritability": [result.heritability(at)[0] for at in range(len(taus))],
        },
        schema_overrides={"ceiling": pl.Float64, "heritability": pl.Float64},
    ).with_columns(pl.col("fdr", "fdr_high").fill_nan(None))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _histogram(lineage: Lineage, result: EdgeResult) -> pl.DataFrame:
    ends = [lineage.ceiling(name) for name in (result.parent, result.child)]
    kinds = {
        "observed": np.concatenate([c.parent.best_r[c.parent.eligible] for c in result.comparisons]),
        "floor": result.floor.r,
        "ceiling": np.concatenate([end.r for end in ends if end is not None] or [np.empty(0)]),
    }
    parts = []
    for kind, r in kinds.items():
        if len(r):
            share = np.histogram(np.clip(r, 0, 1), _BINS)[0] / len(r)
            parts.append(
                pl.DataFrame(
                    {
                        "parent": [result.parent] * len(share), "child": [result.child] * len(share),
                        "kind": [kind] * len(share), "low": _BINS[:-1], "high": _BINS[1:], "share": share,
                    }
                )
            )  # fmt: skip
    return pl.concat(parts)


def _matches(lineage: Lineage, result: EdgeResult, decoders: Decoders | None) -> pl.DataFrame:
    """List best partners, also between SAEs that share a start: those are in no share, but pages show them."""
    parts = []
    for s, t in lineage.all_pairs(result.parent, result.child):
        both = lineage.comparison(result.parent, s, result.child, t)
        weights = None if decoders is None else (decoders[result.parent][s], decoders[result.child][t])
        for name, side in (("parent", both.parent), ("child", both.child)):
            parts.append(_side_matches(result, (s, t), name, side, weights))
    return pl.concat(parts)


def _side_matches(
    result: EdgeResult,
    seeds: tuple[int, int],
    side_name: str,
    side: Side,
    weights: tuple[ndarray, ndarray] | None,
) -> pl.DataFrame:
    """List the best partners of every eligible latent of one side; its verdict stands on each row."""
    top = min(_RANKS, side.candidates.latent.shape[1])
    own = np.repeat(np.flatnonzero(side.eligible), top)
    rank = np.tile(np.arange(top), int(side.eligible.sum()))
    partner = side.candidates.latent[own, rank].astype(np.int64)
    keep = (rank == 0) | (side.candidates.joint[own, rank] >= 0) & (partner >= 0)
    own, rank, partner = own[keep], rank[keep], partner[keep]
    first = (own, partner) if side_name == "parent" else (partner, own)
    verdict = np.full(len(own), "undecided", dtype="<U12")
    verdict[side.persists[own]] = "persists"
    verdict[side.disappears[own]] = "disappears" if side_name == "parent" else "emerges"
    best = rank == 0
    cosine = None if weights is None else cosines(weights[0], weights[1], *first)
    n = len(own)
    return pl.DataFrame(
        {
            "parent": [result.parent] * n,
            "child": [result.child] * n,
            "side": [side_name] * n,
            "seed_parent": np.full(n, seeds[0]),
            "seed_child": np.full(n, seeds[1]),
            "latent_parent": first[0],
            "latent_child": first[1],
            "r": side.candidates.r[own, rank],
            "joint_firings": side.candidates.joint[own, rank],
            "low": np.where(best, side.bounds.low[own], np.nan),
            "high": np.where(best, side.bounds.high[own], np.nan),
            "rank": rank,
            "verdict": verdict,
            "parts": side.splits[own],
            "decoder_cosine": np.full(n, np.nan) if cosine is None else cosine,
        }
    ).with_columns(
        pl.col("low", "high", "decoder_cosine").fill_nan(None),
        pl.when(pl.col("latent_parent", "latent_child") >= 0).then(pl.col("latent_parent", "latent_child")),
    )


def cosines(
    a: Float64[ndarray, "latents d"],
    b: Float64[ndarray, "latents d"],
    first: ndarray,
    second: ndarray,
) -> Float64[ndarray, " n"]:
    """Return the cosine of row first[n] of a and row second[n] of b; NaN where either is −1, or for all if a and
    b stand in bases of different widths."""
    there = (first >= 0) & (second >= 0)
    out = np.full(len(first), np.nan)
    if a.shape[1] != b.shape[1]:
        return out
    left, right = a[first[there]].astype(np.float64), b[second[there]].astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    out[there] = (left * right).sum(axis=1) / np.where(norms > 0, norms, 1.0)
    return out


def _cosine_median(result: EdgeResult, decoders: Decoders | None) -> float | None:
    """Median decoder cosine of what persists."""
    if decoders is None:
        return None
    parts = []
    for (s, t), both in zip(result.pairs, result.comparisons, strict=True):
        own = np.flatnonzero(both.parent.persists)
        parts.append(
            cosines(decoders[result.parent][s], decoders[result.child][t], own, both.parent.match[own])
        )
    values = np.concatenate(parts)
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else None


def _flows(result: EdgeResult) -> pl.DataFrame:
    """Where a parent's latents go and a child's come from; counts are means over the pairs of seeds."""
    parent, child = result.parent, result.child

    def row(source: str, target: str, kind: str, which: str, of: str) -> dict[str, Any]:
        sides: list[Side] = [getattr(c, of) for c in result.comparisons]
        return {
            "source": source, "target": target, "parent": parent, "child": child, "kind": kind,
            "share": float(np.mean([s.share(getattr(s, which)) for s in sides])),
            "count": float(np.mean([(getattr(s, which) & s.eligible).sum() for s in sides])),
        }  # fmt: skip

    rows = [
        row(parent, child, "persists", "persists", "parent"),
        row(parent, f"{parent}: disappears in {child}", "disappears", "disappears", "parent"),
        row(parent, f"{parent}: undecided in {child}", "undecided", "undecided", "parent"),
        row(f"{child}: new", child, "emerges", "disappears", "child"),
    ]
    return pl.DataFrame(rows)


def verdict_names(both: Comparison) -> tuple[list[str], list[str]]:
    """Return the verdict of every latent of the parent and of the child, 'rare' and 'dead' included."""
    return _names(both.parent, "disappears"), _names(both.child, "emerges")


def _names(side: Side, gone: str) -> list[str]:
    names = np.where(side.firings == 0, "dead", np.where(side.eligible, "undecided", "rare")).astype("<U12")
    names[side.persists] = "persists"
    names[side.disappears] = gone
    return [str(name) for name in names]
