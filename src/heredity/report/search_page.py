"""The page of `search`: the losses of the points that were tried, and where the lowest is."""

from typing import Any

import polars as pl

from heredity.report import region_figures as figures
from heredity.report.html import Figure, Section, page
from heredity.report.region_page import part, settings_section
from heredity.report.view import View
from heredity.run import Run

COMMANDS = ("search",)
_LOSS = ("Loss", "mean negative log-likelihood on the token stream, nats per token; lower is better.")


def draw(run: Run) -> str:
    """Render the page of a search."""
    view = View(run)
    lead = view.table("findings")["text"].to_list() if view.has("findings") else []
    sections = [_points(view), settings_section(view)]
    return page(title="Where the loss is lowest", kicker="heredity search", lead=lead, sections=sections)


def _points(view: View) -> Section:
    if not view.has("search"):
        return Section("points", "The points", "missing.j2", {"waits_for": "the first points"})
    table = view.table("search")
    drawn = [_figure(table)]
    return part("points", "The points", drawn=drawn, table=table, terms=[_LOSS])


def _figure(table: pl.DataFrame) -> Figure:
    """Draw the loss against t, or in the order of the search beside the lowest so far."""
    if "t" in table.columns:
        plot: Any = figures.curves(
            table.with_columns(line=pl.lit("merge")), "t", "loss", "line", x_title="t", y_title="loss, nats",
            marks=(float(table.sort("loss")["t"][0]),),
        )  # fmt: skip
        return Figure(
            name="loss", plot=plot, caption="Loss of the merge at each t that was tried; the upright line is the best.",
            numbers=table.select("t", "loss", "why"),
        )  # fmt: skip
    lines = pl.concat([
        table.select("order", "loss", line=pl.lit("tried")),
        table.select("order", loss=pl.col("loss").cum_min(), line=pl.lit("lowest so far")),
    ])  # fmt: skip
    plot = figures.curves(lines, "order", "loss", "line", x_title="point", y_title="loss, nats")
    return Figure(
        name="loss", plot=plot, caption="Loss of each mean of models that was tried, in the order of the search.",
        numbers=table,
    )  # fmt: skip
