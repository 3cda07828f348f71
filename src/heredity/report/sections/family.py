"""The family: who descends from whom, how large, how far each has moved."""

from typing import Any

from heredity.report import family_tree
from heredity.report.formats import percent
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("family", "The family", ("members",), "the models of the family")


def values(view: View) -> dict[str, Any]:
    """Lay out the tree and give one row per member."""
    rows = view.table("members").to_dicts()
    for row in rows:
        row["parts"] = list(
            zip(row["parents"], row.get("parent_distances") or [None] * len(row["parents"]), strict=True)
        )
    kept = {
        (edge["parent"], edge["child"]): f"{percent(edge['persist'], 0)} persist"
        for edge in (view.edges() if view.has("edges") else [])
    }
    seen = {row["member"]: set(row["domains"]) for row in rows}
    lines = {row["member"]: (row["relation"], _taught(row, seen)) for row in rows}
    return {
        "tree": family_tree.lay_out(view.parents, view.colours, lines, kept),
        "rows": rows,
        "colours": view.colours,
        "has_shares": bool(kept),
        "chosen_t": _chosen_t(view),
    }


def _taught(row: dict[str, Any], seen: dict[str, set[str]]) -> str:
    """Name the domains that a member was trained on itself; a merge is trained on none."""
    if row["relation"] == "merge":
        return ""
    before: set[str] = set().union(*(seen.get(parent, set()) for parent in row["parents"]))
    return ", ".join(domain for domain in row["domains"] if domain not in before) or ", ".join(row["domains"])


def _chosen_t(view: View) -> float | None:
    if not view.has("sweep"):
        return None
    chosen = view.table("sweep").filter("chosen")["t"].to_list()
    return float(chosen[0]) if chosen else None
