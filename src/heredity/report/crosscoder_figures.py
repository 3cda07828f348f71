"""Pictures of a crosscoder: how each latent's decoder is divided between the two ends of an edge."""

import numpy as np
import polars as pl

from heredity.report.figures import Plot, label, layout

_BINS = np.round(np.linspace(0, 1, 41), 3)


def divided(latents: pl.DataFrame, parent: str, child: str) -> pl.DataFrame:
    """Count latents by the child's part of the two ends' decoder norms: columns low, high, latents.

    Args:
        latents: rows of the table `crosscoder` that can be judged.
        parent, child: ends of the edge.
    """
    norms = latents["relative_norm"].struct.unnest().select(parent, child).to_numpy()
    whole = norms.sum(axis=1)
    share = np.where(whole > 0, norms[:, 1] / np.where(whole > 0, whole, 1.0), 0.5)
    counts, _ = np.histogram(share, _BINS)
    return pl.DataFrame({"low": _BINS[:-1], "high": _BINS[1:], "latents": counts})


def norm_histogram(counts: pl.DataFrame, parent: str, child: str, borders: tuple[float, float]) -> Plot:
    """Draw how latents are divided between two members.

    Args:
        counts: as `divided` gives them.
        parent, child: ends of the edge.
        borders: ratios of the smaller to the larger norm up to which one end lacks a latent, and from which both
            have it.
    """
    lacks, has = borders
    bars: Plot = {
        "type": "bar", "name": "latents", "x": ((counts["low"] + counts["high"]) / 2).to_list(),
        "y": counts["latents"].to_list(), "width": (counts["high"] - counts["low"]).to_list(), "showlegend": False,
        "marker": {"color": "var(--persists-soft)", "line": {"color": "var(--persists)", "width": 1}},
        "hovertemplate": "%{y:,} latents near %{x:.2f}<extra></extra>",
    }  # fmt: skip
    drawn = layout(
        x=f"{label(child)}'s part of the decoder norm of {label(parent)} and {label(child)}", y="latents"
    )
    edges = [lacks / (1 + lacks), has / (1 + has), 1 / (1 + has), 1 / (1 + lacks)]
    drawn["shapes"] = [
        {
            "type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1,
            "line": {"color": "var(--quiet)", "width": 1, "dash": "dot"},
        }
        for x in edges
    ]  # fmt: skip
    middles = (
        (edges[0] / 2, f"{label(parent)} only"),
        (0.5, "both"),
        ((1 + edges[3]) / 2, f"{label(child)} only"),
    )
    drawn["annotations"] = [
        {
            "x": x, "y": 1, "yref": "paper", "yanchor": "bottom", "text": text, "showarrow": False,
            "font": {"size": 12, "color": "var(--quiet)"},
        }
        for x, text in middles
    ]  # fmt: skip
    drawn["xaxis"] |= {"range": [0, 1]}
    return {"data": [bars], "layout": drawn | {"bargap": 0}}
