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

_PEAK = " The floor's peak near r = 0 is cut off."


def values(view: View) -> dict[str, Any]:
    """Give the table of edges and, for each edge, its histogram of r and its curve over τ."""
    edges = view.edges()
    return {
        "edges": edges,
        "tau": view.tau,
        "parted": all({"split", "fuse"} <= edge.keys() for edge in edges),
        "parts_known": all({"split_floor", "split_ceiling", "fuse_ceiling"} <= edge.keys() for edge in edges),
        "colours": view.colours,
        "few_seeds": all((edge.get("n_seed_pairs") or 0) <= 4 for edge in edges),
        "warnings": view.warnings(PLAN.anchor),
        "shared_start": view.shared_start,
        "by_distance": _by_distance(view, edges),
        "plots": [(edge, *_plots(view, edge["parent"], edge["child"])) for edge in edges],
    }


def _by_distance(view: View, edges: list[dict[str, Any]]) -> Figure | None:
    """Set heritability against how far the child's weights are from the parent's, where both are known."""
    if not view.has("members") or "parent_distances" not in view.table("members").columns:
        return None
    distances = {
        (parent, row["member"]): distance
        for row in view.table("members").iter_rows(named=True)
        for parent, distance in zip(row["parents"], row["parent_distances"], strict=True)
    }
    columns = ("parent", "child", "heritability", "heritability_low", "heritability_high")
    rows = [
        {name: edge[name] for name in columns} | {"distance": distances[edge["parent"], edge["child"]]}
        for edge in edges
        if edge["heritability"] is not None and (edge["parent"], edge["child"]) in distances
    ]
    if len(rows) < 2:
        return None
    table = pl.DataFrame(rows)
    return Figure(
        name="by-distance",
        plot=figures.by_distance(table, view.colours),
        caption="Heritability of each edge against the distance between its two models (Euclidean, over all "
        "weights); bars are 95 % intervals.",
        numbers=table,
        height=320,
    )


def _plots(view: View, parent: str, child: str) -> tuple[Figure | None, Figure | None]:
    histogram, curve = (_of_edge(view, name, parent, child) for name in ("r_histogram", "tau_curve"))
    place = f"{view.members.index(parent)}-{view.members.index(child)}"
    return (
        None if histogram is None else Figure(
            name=f"r-{place}",
            plot=figures.r_histogram(histogram, view.tau),
            caption=f"Best correlation in {child} of each eligible latent of {parent}, on the same held-out "
            "tokens; dotted, with the child's codes shifted within domains (floor); dashed, between two "
            f"seeds of one model (ceiling).{_PEAK if figures.cut_off(histogram) else ''}",
            numbers=histogram.pivot("kind", index=["low", "high"], values="share"),
            height=300,
        ),
        None if curve is None else Figure(
            name=f"tau-{place}",
            plot=figures.tau_curve(curve, view.tau),
            caption=f"Share of {parent}'s eligible latents that persist in {child}, for every τ, between "
            f"floor and ceiling{_extras(curve)}.",
            numbers=curve.drop("parent", "child"),
            height=300,
        ),
    )  # fmt: skip


def _extras(curve: pl.DataFrame) -> str:
    """Say what else the curve over τ shows."""
    shaded = "; shaded, its 95 % interval" if {"persist_low", "persist_high"} <= set(curve.columns) else ""
    false = (
        "; dash-dotted, the upper bound of the share of those matches that chance would give"
        if "fdr_high" in curve.columns
        else ""
    )
    return shaded + false


def _of_edge(view: View, name: str, parent: str, child: str) -> pl.DataFrame | None:
    if not view.has(name):
        return None
    rows = view.table(name).filter(parent=parent, child=child)
    return rows if rows.height else None
