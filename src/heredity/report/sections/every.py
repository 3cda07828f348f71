"""Every feature, to be searched: the page asks for the files beside it."""

from typing import Any

import polars as pl

from heredity.report.feature_files import NEEDS
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("every", "Every feature", NEEDS, "the pages of all features")
SCRIPT = "every.js"


def values(view: View) -> dict[str, Any]:
    """Give the members to choose from, and how many latents have a page."""
    table = view.table("latents")
    first = table.filter((pl.col("seed") == pl.col("seed").min().over("member")) & (pl.col("firings") > 0))
    return {
        "members": view.members,
        "count": first.height,
        "tau": view.tau,
        "agreed": view.has("consensus_latents"),
    }
