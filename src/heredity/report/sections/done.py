"""What was done: text and its splits, settings, seed, versions, time."""

from typing import Any

import polars as pl

from heredity.report.plan import Plan
from heredity.report.view import View
from heredity.tomlfile import to_toml

PLAN = Plan("done", "What was done")

_SPLITS = ("train", "validation", "test")


def values(view: View) -> dict[str, Any]:
    """Give the corpora by domain and split, the stages with their times, versions and settings."""
    record = view.record
    stages = [
        (name, facts.get("wall_seconds"), facts.get("cpu_seconds"))
        for name, facts in record["stages"].items()
    ]
    return {
        "corpora": _corpora(view.table("corpora")) if view.has("corpora") else [],
        "splits": _SPLITS,
        "stages": stages,
        "wall_seconds": sum(wall or 0 for _, wall, _ in stages),
        "cpu_seconds": sum(cpu or 0 for _, _, cpu in stages),
        "record": record,
        "finished": view.has("findings"),
        "environment": record.get("environment", {}),
        "settings": to_toml(record["config"]),
    }


def _corpora(table: pl.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for (domain,), part in table.group_by("domain", maintain_order=True):
        splits = {row["split"]: row for row in part.iter_rows(named=True)}
        # A copy is counted in the split that has its twin.
        copies = {f"dropped_{kind}": part[f"dropped_{kind}"].sum() for kind in ("exact", "near")}
        rows.append({"domain": domain, "splits": splits, "bytes": part["bytes"].sum(), **copies})
    return rows
