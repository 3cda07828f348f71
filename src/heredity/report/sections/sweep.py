"""The merge's sweep over t, and how t was chosen."""

from typing import Any

import polars as pl

from heredity.report import figures
from heredity.report.html import Figure
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("sweep", "Between the two children", ("sweep",), "the sweep of the merge over t")


def values(view: View) -> dict[str, Any]:
    """Give both measures against t, and the chosen t with what it keeps."""
    table = view.table("sweep").sort("t", maintain_order=True)
    chosen = table.filter("chosen")
    colours = view.colours | _colours(view, table)
    return {
        "chosen": chosen.to_dicts(),
        "split": table["split"][0],
        "parents": _merge_parents(view),
        "colours": view.colours,
        "accuracy": _figure(table, "accuracy", colours),
        "loss": _figure(table, "loss", colours),
    }


def _figure(table: pl.DataFrame, measure: str, colours: dict[str, str]) -> Figure:
    ends = {who: _values(table, f"{who}_{measure}") for who in ("base", "child")}
    word = "Next-token accuracy (higher is better)" if measure == "accuracy" else "Loss (lower is better)"
    lines = (
        "; dashed, the base, and dotted, that domain's own child, on the same text" if ends["base"] else ""
    )
    return Figure(
        name=f"sweep-{measure}",
        plot=figures.sweep(table, measure, colours, ends["base"], ends["child"]),
        caption=f"{word} of the merge at each t, on the {table['split'][0]} text of each child{lines}.",
        numbers=table.select("t", "domain", measure, "gain_kept").pivot(
            "domain", index="t", values=[measure, "gain_kept"]
        ),
    )


def _values(table: pl.DataFrame, column: str) -> dict[str, float]:
    return (
        dict(table.select("domain", column).unique(maintain_order=True).iter_rows())
        if column in table.columns
        else {}
    )


def _colours(view: View, table: pl.DataFrame) -> dict[str, str]:
    """Draw a domain in the colour of the child that was trained on it."""
    owner = "child" if "child" in table.columns else "domain"
    pairs = dict(table.select("domain", owner).unique(maintain_order=True).iter_rows())
    return {domain: view.colours[name] for domain, name in pairs.items() if name in view.colours}


def _merge_parents(view: View) -> list[str]:
    return next((parents for parents in view.parents.values() if len(parents) == 2), [])
