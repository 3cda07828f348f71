"""How good the sparse autoencoders are: no share below means more than they do."""

from typing import Any

import polars as pl

from heredity.report import figures
from heredity.report.html import Figure
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan(
    "saes", "How well the features explain the models", ("saes",), "the sparse autoencoders and their quality"
)

KINDS = {"topk": "TopK", "batchtopk": "BatchTopK", "jumprelu": "JumpReLU", "gated": "gated", "l1": "L1"}
FVU_AIM, CE_AIM, L0_SPREAD, DEAD_MANY = 0.10, 0.95, 0.20, 0.10


def values(view: View) -> dict[str, Any]:
    """Give the quality of every SAE, the curve over L0, and what must be said about them."""
    table = view.table("saes")
    own = table.filter(variant=view.variant)
    kinds, again = table["variant"].unique(maintain_order=True).to_list(), f"{view.variant}-again"
    short = own.filter((pl.col("fvu") > FVU_AIM) | (pl.col("ce_recovered") < CE_AIM))
    return {
        "rows": table.to_dicts(),
        "colours": view.colours,
        "kind": KINDS.get(view.variant, view.variant),
        "followed": own.height,
        "short": short.height,
        "aims": (FVU_AIM, CE_AIM),
        "uneven": _uneven(own),
        "dead": _dead(own),
        "others": [v for v in kinds if v not in (view.variant, again)],
        "again": again if again in kinds else None,
        "has_curve": view.variant == "topk",
        "curves": _curves(view) if view.has("sae_curve") else [],
    }


def _uneven(own: pl.DataFrame) -> tuple[float, float] | None:
    """Return the least and largest L0 when they differ by more than a fifth: such SAEs do not compare."""
    low, high = (float(own["l0"].min() or 0), float(own["l0"].max() or 0)) if own.height else (0.0, 0.0)  # type: ignore[arg-type]
    return (low, high) if high > (1 + L0_SPREAD) * low else None


def _dead(own: pl.DataFrame) -> tuple[float, float] | None:
    """Return the least and the largest share of dead latents where it is large enough to be said."""
    shares = own["dead_share"].to_list()
    return (min(shares), max(shares)) if shares and max(shares) > DEAD_MANY else None


def _curves(view: View) -> list[Figure]:
    table = view.table("sae_curve")
    titles = {
        "fvu": ("FVU", "Variance left unexplained (lower is better)"),
        "ce_recovered": ("CE recovered", "Loss recovered (higher is better)"),
    }
    return [
        Figure(
            name=f"l0-{measure}",
            plot=figures.l0_curve(table, measure, title, view.colours),
            caption=f"{words} against how many latents fire per token, on held-out text: one SAE of a "
            "member, evaluated with another k than it was trained with.",
            numbers=table.select("member", "variant", "seed", "k", "l0", measure),
        )
        for measure, (title, words) in titles.items()
    ]
