"""The findings, one sentence each, under the section that has their numbers."""

from importlib import import_module
from itertools import groupby
from typing import Any

from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("found", "What was found", ("findings",))


def values(view: View) -> dict[str, Any]:
    """Give the sentences in order, in groups of one section each; of a run that names no sections, in one group."""
    table = view.table("findings").sort("order")
    sections = table["section"].to_list() if "section" in table.columns else [None] * table.height
    texts = [text.replace(" %", "\u00a0%") for text in table["text"]]
    return {
        "groups": [
            {"anchor": anchor, "title": _title(anchor), "texts": [text for _, text in rows]}
            for anchor, rows in groupby(zip(sections, texts, strict=True), key=lambda row: row[0])
        ]
    }


def _title(anchor: str | None) -> str | None:
    if anchor is None:
        return None
    title: str = import_module(f"heredity.report.sections.{anchor}").PLAN.title
    return title
