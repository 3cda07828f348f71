"""Figures of what latents mean: how well words predict them."""

import numpy as np
import polars as pl

from heredity.report.figures import Colours, Plot, label, layout
from heredity.report.palette import member_dashes

_BINS = np.round(np.arange(-1.0, 1.0001, 0.05), 2)


def score_histogram(scores: pl.DataFrame, colours: Colours) -> Plot:
    """Draw the spread of scores of every member's explanations against that of random ones, all members together.

    Args:
        scores: member, score, null_score; a latent without a score is left out.
        colours: of the members.
    """
    scored = scores.drop_nulls(["score", "null_score"])
    dashes = member_dashes(list(colours))
    null = _steps(scored["null_score"], "by chance, all members", "var(--quiet)", "dot")
    data = [null | {"fill": "tozeroy", "fillcolor": "var(--quiet-soft)"}]
    for (name,), rows in scored.group_by("member", maintain_order=True):
        colour, dash = colours.get(str(name), "var(--quiet)"), dashes.get(str(name), "solid")
        data.append(_steps(rows["score"], label(str(name)), colour, dash))
    drawn = layout(x="score: Pearson r on held-out contexts", y="latents, %")
    low = min(0.0, *(min(trace["x"]) for trace in data))
    drawn["xaxis"] |= {"range": [low - 0.02, 1.02]}
    drawn["yaxis"] |= {"rangemode": "tozero"}
    return {"data": data, "layout": drawn}


def _steps(values: pl.Series, name: str, colour: str, dash: str) -> Plot:
    """Draw a histogram's outline, from its first bin that is not empty on."""
    counts, _ = np.histogram(values.to_numpy(), _BINS)
    shares = 100 * counts / max(1, len(values))
    first = int(np.argmax(counts > 0))
    y = [*shares[first:].tolist(), float(shares[-1])]
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": _BINS[first:].tolist(), "y": y,
        "line": {"color": colour, "dash": dash, "width": 2, "shape": "hv"},
        "hovertemplate": "%{y:.1f} % from r = %{x:.2f}",
    }  # fmt: skip
