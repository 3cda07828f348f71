"""What the rule of the paper's released code counts on the same codes, with its own null beside it."""

from typing import Any

import polars as pl

from heredity.report import share_figures
from heredity.report.html import Figure
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("historical", "What the released code's rule counts", ("historical",))

_SERIES = {"persist": "the released code's rule", "ours": "this page's rule"}


def values(view: View) -> dict[str, Any]:
    """Give each edge as counted by that rule, observed and shifted, beside our own count."""
    edges = _edges(view.table("historical"))
    return {
        "edges": edges.to_dicts(),
        "tau": float(view.table("historical")["tau"][0]),
        "ours_tau": view.tau,
        "colours": view.colours,
        "figure_": _figure(edges, view.table("historical")),
    }


def _edges(table: pl.DataFrame) -> pl.DataFrame:
    """Return one row per edge; the columns of the shifted codes begin with `null_`."""
    observed, shifted = (table.filter(codes=codes) for codes in ("observed", "shifted"))
    null = shifted.select(
        "parent", "child", null_persist="persist", null_ours="ours", null_matches="matches_per_latent"
    )
    return observed.join(null, on=["parent", "child"], how="left", maintain_order="left")


def _figure(edges: pl.DataFrame, table: pl.DataFrame) -> Figure:
    unknown = pl.lit(None, pl.Float64)
    rows = pl.concat([
        edges.select(
            row=pl.col("parent") + " → " + pl.col("child"), series=pl.lit(name), value=column, low=unknown,
            high=unknown, floor=f"null_{column}",
        )
        for column, name in _SERIES.items()
    ])  # fmt: skip
    return Figure(
        name="historical-shares",
        plot=share_figures.between(
            rows, x="latents that “persist”, %", chance="the same, child shifted", below=0.1
        ),
        caption="Share of the parent's latents that persist by either rule, between each member's first SAE, and what "
        "the same rule counts when the child's codes are shifted so that nothing is shared token by token.",
        numbers=table,
        height=share_figures.height(len(edges), 2),
    )
