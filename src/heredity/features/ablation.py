"""Does what persists also matter alike? Which latents to ablate in whom, and what came of it.

Of every edge a draw of the pairs that persist is ablated one by one, parent's latent and child's partner; and, as
sets, everything that persists or disappears in the parent, and everything that emerges in the child. The first
seed of each member stands for it.

Two effects are correlated over the pairs' two ends: the loss change, and how far the losses of single tokens
move, whichever way (Spearman, on ranks: a few latents have most of the effect). The null gives each parent's
latent the partner of another pair that fires about as often: pairs are put in groups of five by the partner's
firings, and partners move on by one place in each group, in an order drawn anew. What two latents owe to
firing equally often is in the null.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64
from msgspec import Struct
from numpy import ndarray
from scipy.stats import rankdata

from heredity.features.ablate import Ablated
from heredity.features.verdicts import Tracking
from heredity.seeds import generator

EFFECTS = ("loss_change", "moved")
_GROUP = 5
_DRAWS = 1000
_LEAST_PAIRS = 8


class Removed(Struct, frozen=True):
    """Latents of one member that are removed together.

    Attributes:
        kind: "latent" for a single one, else the verdict that they share.
        latents: which.
        edge: of the verdict; none for a single one.
    """

    kind: str
    latents: tuple[int, ...]
    edge: tuple[str, str] | None = None


class Plan(Struct, frozen=True):
    """What to ablate.

    Attributes:
        sets: of each member.
        pairs: (latent of the parent, of the child) of each edge, [pairs, 2].
    """

    sets: dict[str, list[Removed]]
    pairs: dict[tuple[str, str], Int64[ndarray, "pairs 2"]]


def plan(matches: pl.DataFrame, settings: Tracking, *, each: int, seed: int) -> Plan:
    """Choose what to ablate.

    Args:
        matches: the table of a lineage.
        settings: of that lineage.
        each: pairs drawn on every edge.
        seed: of the draw.
    """
    sets: dict[str, list[Removed]] = {}
    pairs: dict[tuple[str, str], Int64[ndarray, "pairs 2"]] = {}
    first = matches.filter(seed_parent=0, seed_child=0)
    for (parent, child), edge in first.group_by("parent", "child", maintain_order=True):
        where = str(parent), str(child)
        pairs[where] = _drawn(edge, settings, each, generator(seed, "ablated pairs", *where))
        for member, column in zip(where, (0, 1), strict=True):
            mine = sets.setdefault(member, [])
            for latent in pairs[where][:, column]:
                one = Removed("latent", (int(latent),))
                if one not in mine:
                    mine.append(one)
        for member, side, verdict in (
            (where[0], "parent", "persists"),
            (where[0], "parent", "disappears"),
            (where[1], "child", "emerges"),
        ):
            marked = edge.filter(side=side, verdict=verdict, rank=0)[f"latent_{side}"].to_list()
            if marked:
                sets[member].append(Removed(verdict, tuple(sorted(map(int, marked))), where))
    return Plan({member: mine for member, mine in sets.items() if mine}, pairs)


def ablation_tables(planned: Plan, measured: Mapping[str, Ablated], *, seed: int) -> dict[str, pl.DataFrame]:
    """Return the tables `ablation` and `ablation_alike`.

    Args:
        planned: the sets.
        measured: of each member, in the order of its sets.
        seed: of resamples and of the null.
    """
    each = {member: one.table(seed=seed) for member, one in measured.items()}
    rows = [_listed(member, planned.sets[member], table) for member, table in each.items()]
    alike = [
        row
        for (parent, child), pairs in planned.pairs.items()
        if parent in each and child in each
        for row in _alike(planned, (parent, child), pairs, (each[parent], each[child]), seed)
    ]
    return {
        "ablation": pl.concat([pl.DataFrame(schema=_SCHEMA), *rows]),
        "ablation_alike": pl.DataFrame(alike, schema=_ALIKE),
    }


_SCHEMA = {
    "member": pl.String, "seed": pl.Int64, "kind": pl.String, "parent": pl.String, "child": pl.String,
    "latent": pl.Int64, "n_latents": pl.Int64, "domain": pl.String, "loss_change": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "moved": pl.Float64, "firings": pl.Int64, "per_firing": pl.Float64,
}  # fmt: skip
_ALIKE = {
    "parent": pl.String, "child": pl.String, "domain": pl.String, "effect": pl.String, "n_pairs": pl.Int64,
    "mean_parent": pl.Float64, "mean_child": pl.Float64, "pearson": pl.Float64, "spearman": pl.Float64,
    "spearman_low": pl.Float64, "spearman_high": pl.Float64, "null": pl.Float64, "null_low": pl.Float64,
    "null_high": pl.Float64, "p": pl.Float64,
}  # fmt: skip


def _drawn(
    edge: pl.DataFrame, settings: Tracking, each: int, draw: np.random.Generator
) -> Int64[ndarray, "pairs 2"]:
    """Draw pairs that persist: each of the parent's latents with its best partner that counts as a match."""
    kept = (
        edge.filter(
            pl.col("r") >= settings.tau, pl.col("joint_firings") >= settings.min_joint,
            side="parent", verdict="persists",
        )
        .sort("latent_parent", "rank")
        .unique("latent_parent", keep="first", maintain_order=True)
        .select("latent_parent", "latent_child")
        .to_numpy()
        .astype(np.int64)
    )  # fmt: skip
    return kept[np.sort(draw.permutation(len(kept))[:each])]


def _listed(member: str, sets: Sequence[Removed], table: pl.DataFrame) -> pl.DataFrame:
    who = pl.DataFrame({
        "set": range(len(sets)), "member": [member] * len(sets), "seed": [0] * len(sets),
        "kind": [one.kind for one in sets], "parent": [one.edge and one.edge[0] for one in sets],
        "child": [one.edge and one.edge[1] for one in sets],
        "latent": [one.latents[0] if one.kind == "latent" else None for one in sets],
        "n_latents": [len(one.latents) for one in sets],
    }, schema={"set": pl.Int64, **{name: _SCHEMA[name] for name in list(_SCHEMA)[:7]}})  # fmt: skip
    return table.join(who, on="set", maintain_order="left").select(
        pl.col(name).cast(kind) for name, kind in _SCHEMA.items()
    )


def _alike(
    planned: Plan,
    edge: tuple[str, str],
    pairs: Int64[ndarray, "pairs 2"],
    tables: tuple[pl.DataFrame, pl.DataFrame],
    seed: int,
) -> list[dict[str, Any]]:
    rows = []
    ends = [
        (
            table,
            {one.latents[0]: n for n, one in enumerate(planned.sets[member]) if one.kind == "latent"},
            column,
        )
        for member, table, column in zip(edge, tables, (0, 1), strict=True)
    ]
    for domain in tables[0]["domain"].unique(maintain_order=True):
        mine = [
            table.filter(domain=domain).sort("set")[[number[int(latent)] for latent in pairs[:, column]]]
            for table, number, column in ends
        ]
        for effect in EFFECTS:
            a, b = (one[effect].to_numpy() for one in mine)
            row: dict[str, Any] = {
                "parent": edge[0], "child": edge[1], "domain": domain, "effect": effect, "n_pairs": len(pairs),
                "mean_parent": float(a.mean()) if len(pairs) else None,
                "mean_child": float(b.mean()) if len(pairs) else None,
            }  # fmt: skip
            if len(pairs) >= _LEAST_PAIRS and np.ptp(a) > 0 and np.ptp(b) > 0:
                draw = generator(seed, "ablation null", *edge, domain, effect)
                row |= _compared(a, b, mine[1]["firings"].to_numpy(), draw)
            rows.append(row)
    return rows


def _compared(
    a: Float64[ndarray, " pairs"],
    b: Float64[ndarray, " pairs"],
    firings: Int64[ndarray, " pairs"],
    draw: np.random.Generator,
) -> dict[str, float | None]:
    """Correlate the effects of pairs, with an interval over pairs, and against pairs of equal firing rate."""
    n = len(a)
    ranks = rankdata(a), rankdata(b)
    spearman = float(_pearson(*ranks))
    some = draw.integers(0, n, (_DRAWS, n))
    again = _pearson(rankdata(a[some], axis=1), rankdata(b[some], axis=1))
    null = _pearson(ranks[0], ranks[1][strangers(firings, draw, _DRAWS)])
    low, high = np.nanpercentile(again, [2.5, 97.5])
    null_low, null_high = np.percentile(null, [2.5, 97.5])
    return {
        "pearson": float(_pearson(a, b)), "spearman": spearman, "spearman_low": float(low),
        "spearman_high": float(high), "null": float(null.mean()), "null_low": float(null_low),
        "null_high": float(null_high), "p": float((1 + (null >= spearman).sum()) / (1 + _DRAWS)),
    }  # fmt: skip


def strangers(
    firings: Int64[ndarray, " pairs"], draw: np.random.Generator, n: int
) -> Int64[ndarray, "n pairs"]:
    """Give every pair the place of another one whose partner fires about as often, n times."""
    order = np.argsort(firings, kind="stable")
    groups = np.array_split(order, max(1, len(order) // _GROUP))
    out = np.empty((n, len(firings)), np.int64)
    for group in groups:
        ring = draw.permuted(np.tile(group, (n, 1)), axis=1)
        np.put_along_axis(out, ring, np.roll(ring, 1, axis=1), axis=1)
    return out


def _pearson(a: ndarray, b: ndarray) -> ndarray:
    """Correlate along the last axis; NaN where one side is constant."""
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    norm = np.sqrt(np.square(a).sum(axis=-1) * np.square(b).sum(axis=-1))
    product = (a * b).sum(axis=-1)
    r: ndarray = np.where(norm > 0, product / np.where(norm > 0, norm, 1.0), np.nan)
    return r
