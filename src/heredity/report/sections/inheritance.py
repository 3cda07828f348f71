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
    if "ceiling" not in table.columns:
        table = table.with_columns(ceiling=pl.lit(None, pl.Float64))
    merges = [
        {"merge": merge, "left": left, "right": right, "again": _again(rows), "groups": _groups(rows)}
        for (merge, left, right), rows in table.group_by("merge", "left", "right", maintain_order=True)
    ]
    return {"merges": merges, "colours": view.colours}


def _again(rows: pl.DataFrame) -> float | None:
    """Return the share of the merge's own latents that its second SAE finds: the ceiling of all that is found."""
    known = rows.filter(kind="both")["ceiling"].drop_nulls().to_list()
    return known[0] if known else None


def _groups(rows: pl.DataFrame) -> list[dict[str, Any]]:
    groups = []
    for title, kinds in _GROUPS:
        mine = rows.filter(pl.col("kind").is_in(kinds))
        for (of,), part in mine.group_by("of", maintain_order=True):
            ordered = sorted(part.to_dicts(), key=lambda row: kinds.index(row["kind"]))
            groups.append({"title": title, "of": of, "rows": ordered})
    return groups
