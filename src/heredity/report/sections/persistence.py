"""What persists on every edge, never without its floor and its ceiling."""

from typing import Any

import polars as pl

from heredity.report import figures
from heredity.report.html import Figure
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan(
    "persistence", "What persists on each edge", ("edges",), "the shares that persist, with floor and ceiling"
)


def values(view: View) -> dict[str, Any]:
    """Give the table of edges and, for each edge, its histogram of r and its curve over τ."""
    edges = view.edges()
    return {
        "edges": edges,
        "tau": view.tau,
        "colours": view.colours,
        "few_seeds": all((edge.get("n_seed_pairs") or 0) <= 4 for edge in edges),
        "plots": [(edge, *_plots(view, edge["parent"], edge["child"])) for edge in edges],
    }


def _plots(view: View, parent: str, child: str) -> tuple[Figure | None, Figure | None]:
    histogram, curve = (_of_edge(view, name, parent, child) for name in ("r_histogram", "tau_curve"))
    place = f"{view.members.index(parent)}-{view.members.index(child)}"
    return (
        None if histogram is None else Figure(
            name=f"r-{place}",
            plot=figures.r_histogram(histogram, view.tau),
            caption=f"Best correlation in {child} of each eligible latent of {parent}, on the same held-out "
            "tokens; dotted, with the child's codes shifted within domains (floor); dashed, between two seeds of "
            "one model (ceiling).",
            numbers=histogram.pivot("kind", index=["low", "high"], values="share"),
            height=300,
        ),
        None if curve is None else Figure(
            name=f"tau-{place}",
            plot=figures.tau_curve(curve, view.tau),
            caption=f"Share of {parent}'s eligible latents that persist in {child}, for every τ, between "
            "floor and ceiling.",
            numbers=curve.drop("parent", "child"),
            height=300,
        ),
    )  # fmt: skip


def _of_edge(view: View, name: str, parent: str, child: str) -> pl.DataFrame | None:
    if not view.has(name):
        return None
    rows = view.table(name).filter(parent=parent, child=child)
    return rows if rows.height else None
