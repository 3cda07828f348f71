"""What persists among the features that most seeds of a member find: not one SAE's choice."""

from typing import Any

import polars as pl

from heredity.report import share_figures
from heredity.report.html import Figure
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("consensus", "Only what most SAEs agree on", ("consensus", "consensus_edges", "edges"))


def values(view: View) -> dict[str, Any]:
    """Give each member's consensus, and each edge's beside the same of all latents."""
    members = view.table("consensus").filter(pl.col("held_out").is_null())
    edges = _edges(view)
    return {
        "members": members.to_dicts(),
        "edges": edges.to_dicts(),
        "tau": view.tau,
        "colours": view.colours,
        "figure_": _figure(edges),
    }


def _edges(view: View) -> pl.DataFrame:
    """Return the edges of consensus features with the columns of all latents, which begin with `all_`."""
    columns = (
        "persist", "persist_low", "persist_high", "floor", "floor_p95", "ceiling", "heritability",
        "heritability_low", "heritability_high",
    )  # fmt: skip
    every = view.table("edges").select("parent", "child", **{f"all_{name}": name for name in columns})
    return view.table("consensus_edges").join(
        every, on=["parent", "child"], how="left", maintain_order="left"
    )


def _figure(edges: pl.DataFrame) -> Figure:
    row = pl.col("parent") + " → " + pl.col("child")
    shared = {"row": row, "floor_low": pl.lit(None, pl.Float64)}
    parts = [
        edges.select(
            **shared, series=pl.lit("consensus features"), value="found", low="found_low", high="found_high",
            floor="floor", floor_high="floor_p95", ceiling="ceiling",
        ),
        edges.select(
            **shared, series=pl.lit("all latents"), value="all_persist", low="all_persist_low",
            high="all_persist_high", floor="all_floor", floor_high="all_floor_p95", ceiling="all_ceiling",
        ),
    ]  # fmt: skip
    rows = pl.concat(parts)
    return Figure(
        name="consensus-shares",
        plot=share_figures.between(rows, x="found in an SAE of the child, %"),
        caption="Share of the parent's consensus features, and of all its latents, found in an SAE of the child, each "
        "between its own floor and ceiling; bars are 95 % intervals.",
        numbers=edges.select(
            "parent", "child", "n_parent", "found", "found_low", "found_high", "floor", "ceiling", "all_persist",
            "all_floor", "all_ceiling",
        ),
        height=share_figures.height(len(edges), 2),
    )  # fmt: skip
