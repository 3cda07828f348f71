"""What removing features costs each member, by domain, and whether what persists also matters alike."""

from typing import Any

import polars as pl

from heredity.report import share_figures
from heredity.report.feature_files import NEEDS
from heredity.report.html import Figure
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("ablation", "What removing features costs", ("ablation",))

ALL = "all"
SHOWN = 10
SLIGHT = 1e-4
LARGE = 0.3
"""Nats per token from which on the sets' costs are written with a digit less."""
_EFFECTS = {"loss_change": "loss change", "moved": "size of token changes"}


def values(view: View) -> dict[str, Any]:
    """Give the loss without each set of an edge, the dearest single latents, and how alike the two ends are."""
    table = view.table("ablation")
    sets = table.filter(pl.col("kind") != "latent")
    single = table.filter(kind="latent", domain=ALL)
    costs = {
        (member, latent): {row["domain"]: row for row in rows.iter_rows(named=True)}
        for (member, latent), rows in table.filter(kind="latent").group_by("member", "latent")
    }
    dearest = single.sort("loss_change", "member", "latent", descending=[True, False, False]).head(SHOWN)
    alike = view.table("ablation_alike") if view.has("ablation_alike") else None
    return {
        "domains": [name for name in table["domain"].unique(maintain_order=True) if name != ALL],
        "all": ALL,
        "edges": _sets(sets),
        "digits": 3 if max(sets["loss_change"], default=0.0) >= LARGE else 4,
        "singles": single.height,
        "slight": single.filter(pl.col("loss_change").abs() < SLIGHT).height / max(1, single.height),
        "slight_limit": SLIGHT,
        "dearest": [
            {**row, "domains": costs[row["member"], row["latent"]]} for row in dearest.iter_rows(named=True)
        ],
        "alike": None if alike is None else _alike(alike),
        "figure_": None if alike is None else _figure(alike),
        "colours": view.colours,
        "paged": view.has(*NEEDS),
    }


def _sets(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Give every edge's sets in the table's order of kinds: what persists, disappears, emerges."""
    order = {"persists": 0, "disappears": 1, "emerges": 2}
    edges: dict[tuple[str, str], dict[tuple[str, str], dict[str, dict[str, Any]]]] = {}
    for row in table.iter_rows(named=True):
        sets = edges.setdefault((row["parent"], row["child"]), {})
        sets.setdefault((row["kind"], row["member"]), {})[row["domain"]] = row
    return [
        {
            "parent": parent,
            "child": child,
            "sets": [
                {"kind": kind, "member": member, "n": domains[ALL]["n_latents"], "domains": domains}
                for (kind, member), domains in sorted(sets.items(), key=lambda item: order.get(item[0][0], 9))
            ],
        }
        for (parent, child), sets in sorted(edges.items(), key=lambda item: _place(table, item[0]))
    ]


def _place(table: pl.DataFrame, edge: tuple[str, str]) -> int:
    """Return where an edge first comes: in the order of the members that were ablated."""
    order = list(dict.fromkeys(table.select("parent", "child").iter_rows()))
    return order.index(edge)


def _alike(table: pl.DataFrame) -> list[dict[str, Any]]:
    everywhere = table.filter(domain=ALL)
    return [
        {
            "parent": parent,
            "child": child,
            "n_pairs": rows["n_pairs"][0],
            "effects": {row["effect"]: row for row in rows.iter_rows(named=True)},
        }
        for (parent, child), rows in everywhere.group_by("parent", "child", maintain_order=True)
    ]


def _figure(table: pl.DataFrame) -> Figure | None:
    drawn = table.filter(domain=ALL).drop_nulls("spearman")
    if not drawn.height:
        return None
    rows = drawn.select(
        row=pl.col("parent") + " → " + pl.col("child"), series=pl.col("effect").replace(_EFFECTS),
        value="spearman", low="spearman_low", high="spearman_high", floor="null", floor_low="null_low",
        floor_high="null_high",
    )  # fmt: skip
    return Figure(
        name="ablation-alike",
        plot=share_figures.between(
            rows,
            x="Spearman correlation of the two ends",
            percent=False,
            chance="strangers",
            below=0.09,
        ),
        caption="How alike the two latents of a pair matter, over the pairs of each edge and all domains, beside "
        "pairs made of strangers; bars are 95 % intervals, of strangers the middle 95 % of the draws.",
        numbers=table,
        height=share_figures.height(rows["row"].n_unique(), rows["series"].n_unique()),
    )
