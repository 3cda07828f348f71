"""Training curves, and the loss of every member on every domain's held-out text."""

from typing import Any

from heredity.report import figures
from heredity.report.html import Figure
from heredity.report.plan import Plan
from heredity.report.view import View

PLAN = Plan("losses", "What each model can do", ("losses",), "the losses on test text")


def values(view: View) -> dict[str, Any]:
    """Give loss and accuracy by member and domain, on test text only, and the training curves."""
    table = view.table("losses").filter(split="test")
    cells = {(row["member"], row["domain"]): row for row in table.iter_rows(named=True)}
    seen = dict(view.table("members").select("member", "domains").iter_rows()) if view.has("members") else {}
    return {
        "members": list(table["member"].unique(maintain_order=True)),
        "domains": list(table["domain"].unique(maintain_order=True)),
        "cells": cells,
        "seen": seen,
        "colours": view.colours,
        "curve": _curve(view) if view.has("training") else None,
    }


def _curve(view: View) -> Figure:
    training = view.table("training")
    return Figure(
        name="training-curves",
        plot=figures.training_curves(training, view.colours),
        caption="Training loss of every trained member on its own training text, against the tokens it has "
        "seen. The curves are of different text: compare their shapes, not their heights.",
        numbers=training,
        height=320,
    )
