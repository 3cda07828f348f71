"""What the merge took from each parent, and what became of the parents' features."""

from typing import Any

import polars as pl

from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("inheritance", "What the merge took", ("inheritance",), "what the merge took from each parent")

_GROUPS = (
    ("Where the merge's features come from", ("left only", "right only", "both", "neither")),
    ("What became of the parents' features", ("kept", "lost", "undecided")),
    ("How old the merge's features are", ("old", "learned", "new")),
)


def values(view: View) -> dict[str, Any]:
    """Give, for every merge, its shares in groups that each make a whole."""
    table = view.table("inheritance")
    if "of" not in table.columns:
        table = table.with_columns(of=pl.lit(""))
    merges = [
        {"merge": merge, "left": left, "right": right, "groups": _groups(rows)}
        for (merge, left, right), rows in table.group_by("merge", "left", "right", maintain_order=True)
    ]
    return {"merges": merges, "colours": view.colours}


def _groups(rows: pl.DataFrame) -> list[dict[str, Any]]:
    groups = []
    for title, kinds in _GROUPS:
        mine = rows.filter(pl.col("kind").is_in(kinds))
        for (of,), part in mine.group_by("of", maintain_order=True):
            ordered = sorted(part.to_dicts(), key=lambda row: kinds.index(row["kind"]))
            groups.append({"title": title, "of": of, "rows": ordered})
    return groups
