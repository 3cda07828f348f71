"""Features flowing through the family, as a Sankey."""

from typing import Any

from heredity.report import figures
from heredity.report.html import Figure
from heredity.report.palette import VERDICTS, verdict_of
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("flow", "Features through the family", ("flows",), "the flow of features through the family")


def values(view: View) -> dict[str, Any]:
    """Give the Sankey and the verdicts it shows."""
    flows = view.table("flows")
    shown = {verdict_of(kind) for kind in flows["kind"]}
    caption = (
        "Latents of every member on the same held-out text, from left to right; the width of a band is "
        f"their number, its colour what became of them at τ = {view.tau:.2f}. "
        "Latents too rare to judge are left out."
    )
    nodes = len({*flows["source"], *flows["target"]})
    return {
        "verdicts": [verdict for verdict in VERDICTS if verdict in shown],
        "figure_": Figure(
            name="sankey", plot=figures.sankey(flows, view.colours, view.parents), caption=caption,
            numbers=flows,
            height=max(420, 36 * nodes), min_width=760,
        ),
    }  # fmt: skip
