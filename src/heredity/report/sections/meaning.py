"""What the features mean: where they fire, how well words say it, and what they do to the next token."""

from typing import Any

import polars as pl

from heredity.report import meaning_figures
from heredity.report.feature_files import NEEDS
from heredity.report.html import Figure
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("meaning", "What the features mean", ("latent_statistics",))

LISTED = 8
PLACED = 0.10
"""Nats by which positions differ from chance, from which on a latent is said to keep to a place."""
_MIN_FIRINGS = 50


def values(view: View) -> dict[str, Any]:
    """Give one row per member of each kind of meaning, the spread of scores, and features to look at."""
    least = int(view.record["config"].get("lineage", {}).get("min_firings", _MIN_FIRINGS))
    said = view.has("explanations", "explanation_summary")
    return {
        "colours": view.colours,
        "paged": view.has(*NEEDS),
        "least": least,
        "placed": PLACED,
        "statistics": _statistics(view.table("latent_statistics"), least),
        "summary": view.table("explanation_summary").to_dicts() if said else [],
        "figures": _score_figures(view) if said else [],
        "best": _listed(view, least, best=True) if said else [],
        "worst": _listed(view, least, best=False) if said else [],
        "effects": _effects(view, least) if view.has("effects") else [],
    }


def _statistics(table: pl.DataFrame, least: int) -> list[dict[str, Any]]:
    """Sum up, by member, on how few tokens its latents fire and how many keep to a place."""
    first_share = pl.col("top_shares").list.first()
    return (
        table.filter(pl.col("firings") >= least)
        .group_by("member", maintain_order=True)
        .agg(
            latents=pl.len(),
            tokens=pl.col("token_entropy").exp().median(),
            tokens_low=pl.col("token_entropy").exp().quantile(0.25),
            tokens_high=pl.col("token_entropy").exp().quantile(0.75),
            one_token=(first_share >= 0.5).mean(),
            context=(pl.col("context_excess") >= PLACED).mean(),
            start=(pl.col("document_early_share") >= 0.5).mean(),
        )
        .to_dicts()
    )


def _score_figures(view: View) -> list[Figure]:
    return [
        Figure(
            name=f"scores-{place}",
            plot=meaning_figures.score_histogram(rows, view.colours),
            caption=f"Scores of the explanations by {explainer}, one per latent, on contexts that they were not made "
            "from; shaded, explanations of other latents on the same contexts.",
            numbers=view.table("explanation_summary").filter(explainer=explainer),
            height=300,
        )
        for place, ((explainer,), rows) in enumerate(
            view.table("explanations").group_by("explainer", maintain_order=True)
        )
    ]


def _listed(view: View, least: int, *, best: bool) -> list[dict[str, Any]]:
    """Return the best or the worst explained latents that fire often enough, no words twice."""
    often = view.table("latent_statistics").filter(pl.col("firings") >= least).select("member", "latent")
    scored = view.table("explanations").drop_nulls(["score", "null_score"])
    return (
        scored.join(often, on=["member", "latent"], how="semi", maintain_order="left")
        .sort("score", "member", "latent", descending=[best, False, False])
        .unique("rule", keep="first", maintain_order=True)
        .head(LISTED)
        .to_dicts()
    )


def _effects(view: View, least: int) -> list[dict[str, Any]]:
    """Sum up both checks of the direct effects, each beside other latents' effects."""
    often = view.table("latent_statistics").filter(pl.col("firings") >= least).select("member", "latent")
    table = view.table("effects").join(often, on=["member", "latent"], how="semi", maintain_order="left")
    rows = _checked(table, "observed", directness=pl.col("directness").first())
    measured: dict[str, dict[str, Any]] = {}
    if view.has("measured_effects"):
        measured = {row["member"]: row for row in _checked(view.table("measured_effects"), "measured")}
    return [row | {"measured": measured.get(row["member"])} for row in rows]


def _checked(table: pl.DataFrame, check: str, **more: pl.Expr) -> list[dict[str, Any]]:
    return (
        table.drop_nulls([check, f"{check}_null_high"])
        .group_by("member", maintain_order=True)
        .agg(
            n=pl.len(),
            mean=pl.col(check).mean(),
            null=pl.col(f"{check}_null").mean(),
            above=(pl.col(check) > pl.col(f"{check}_null_high")).mean(),
            **more,
        )
        .to_dicts()
    )
