"""What the page does not show, and what its numbers depend on."""

from typing import Any

import polars as pl

from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("limits", "Limits")


def values(view: View) -> dict[str, Any]:
    """Give the facts that the sentences on limits depend on."""
    saes = view.table("saes") if view.has("saes") else None
    seeds = int(saes.filter(variant=view.variant)["seed"].n_unique()) if saes is not None else None
    config = view.record["config"]
    return {
        "seeds": seeds,
        "site": config.get("sae", {}).get("site"),
        "tau": view.tau,
        "agreed": view.has("consensus", "consensus_edges"),
        "matched_thrice": view.has("matchings"),
        "historical": view.has("historical"),
        "explained": view.has("explanations"),
        "rules_only": _rules_only(view),
        "ablated": view.has("ablation"),
        "effects": view.has("effects"),
        "warnings": view.warnings(),
        "beside_shares": len(view.warnings("persistence")),
    }


def _rules_only(view: View) -> bool:
    if not view.has("explanations") or "explainer" not in view.table("explanations").columns:
        return True
    return not view.table("explanations").filter(pl.col("explainer") != "rules").height
