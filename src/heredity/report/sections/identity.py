"""What became of each latent where a child's SAE began at its parent's: the index is an identity."""

from typing import Any

import polars as pl

from heredity.report import share_figures
from heredity.report.html import Figure
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("identity", "What became of each latent", ("identity",))

_MEASURES = ("kept", "r_median", "cosine_median", "best_at_index")
_ENDS = ("", "_null", "_null_p95", "_control")


def values(view: View) -> dict[str, Any]:
    """Give each edge's measures at the own index, beside strangers and the parent's SAE trained on."""
    rows = _edges(view.table("identity"))
    return {
        "edges": rows.to_dicts(),
        "tau": view.tau,
        "colours": view.colours,
        "through": [row for row in rows.to_dicts() if not row["direct"]],
        "figure_": _figure(rows, view.tau),
    }


def _edges(table: pl.DataFrame) -> pl.DataFrame:
    """Return means over the seeds, with the least and the largest share kept."""
    columns = [f"{name}{end}" for name in _MEASURES for end in _ENDS]
    return table.group_by("parent", "child", "through", "direct", maintain_order=True).agg(
        pl.col(*columns, "silent", "n_parent").mean(),
        seeds=pl.len(),
        least=pl.col("kept_low").min(),
        most=pl.col("kept_high").max(),
    )


def _figure(rows: pl.DataFrame, tau: float) -> Figure:
    name = pl.col("parent") + " → " + pl.col("child")
    parts = [
        rows.select(
            row=name, series=pl.lit("kept in place"), value="kept", low="least", high="most", floor="kept_null",
            floor_low=pl.lit(None, pl.Float64), floor_high="kept_null_p95", ceiling="kept_control",
        ),
        rows.select(
            row=name, series=pl.lit("best match at its own index"), value="best_at_index",
            low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64), floor="best_at_index_null",
            floor_low=pl.lit(None, pl.Float64), floor_high="best_at_index_null_p95", ceiling="best_at_index_control",
        ),
    ]  # fmt: skip
    drawn = pl.concat(parts)
    plot = share_figures.between(drawn, x="latents of the parent, %", chance="strangers", top="trained on")
    return Figure(
        name="identity-shares",
        plot=plot,
        caption=f"Share of each parent's latents kept at their own index (r ≥ {tau:.2f}), and whose best match is "
        "there, between strangers and the parent's own SAE trained on; bars go from the least to the largest end of "
        "the seeds' 95 % intervals.",
        numbers=rows.select("parent", "child", "through", *(f"{name}{end}" for name in _MEASURES for end in _ENDS)),
        height=share_figures.height(len(rows), 2),
    )  # fmt: skip
