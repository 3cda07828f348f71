"""How much of the answer is the way of matching: best partner, mutual best, one to one."""

from typing import Any

import polars as pl

from heredity.report import share_figures
from heredity.report.html import Figure
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("matchings", "How the answer depends on the matching", ("matchings", "edges"))

NAMES = {"best": "best", "mutual": "mutual best", "hungarian": "one to one"}


def values(view: View) -> dict[str, Any]:
    """Give each edge's three matchings at the chosen τ, each with floor, false discoveries and ceiling."""
    table = _at_tau(view)
    edges = [
        {"parent": parent, "child": child, "rows": rows.to_dicts()}
        for (parent, child), rows in table.group_by("parent", "child", maintain_order=True)
    ]
    return {
        "edges": edges,
        "tau": view.tau,
        "colours": view.colours,
        "d_in": int(view.table("saes")["d_in"][0]) if view.has("saes") else None,
        "figure_": _figure(table),
    }


def _at_tau(view: View) -> pl.DataFrame:
    """Return the rows at the chosen τ in the order of the edges, with names and the share of the ceiling."""
    order = view.table("edges").select("parent", "child").unique(maintain_order=True).with_row_index("_edge")
    table = view.table("matchings").filter((pl.col("tau") - view.tau).abs() < 1e-9)
    rank = pl.col("matching").replace_strict({name: n for n, name in enumerate(NAMES)}, default=len(NAMES))
    return (
        table.join(order, on=["parent", "child"])
        .sort("_edge", rank, maintain_order=True)
        .with_columns(
            name=pl.col("matching").replace(NAMES),
            of_ceiling=pl.when(pl.col("ceiling") > 0).then(pl.col("persist") / pl.col("ceiling")),
        )
        .drop("_edge")
    )


def _figure(table: pl.DataFrame) -> Figure:
    rows = table.select(
        row=pl.col("parent") + " → " + pl.col("child"), series="name", value="persist", low="persist_min",
        high="persist_max", floor="floor", floor_low="floor", floor_high="floor_p95", ceiling="ceiling",
    )  # fmt: skip
    return Figure(
        name="matchings-shares",
        plot=share_figures.between(rows, x="latents of the parent with a partner, %"),
        caption="Share of each parent's latents with a partner in the child, by three ways of matching, between the "
        "floor and the ceiling of the same way; bars go from the least to the largest pair of seeds.",
        numbers=table.drop("name"),
        height=share_figures.height(rows["row"].n_unique(), rows["series"].n_unique()),
    )
