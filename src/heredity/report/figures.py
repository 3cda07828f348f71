"""From a table to a plotly figure as plain values: pure functions, no plotly import, colours by variable.

Each returns `{"data": [...], "layout": {...}}`. Strings from the tables go through `label`, because plotly
reads a little HTML in its texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from heredity.report.palette import member_dashes, verdict_of

Plot = dict[str, Any]
Colours = Mapping[str, str]

_CLEAR = "rgba(0,0,0,0)"
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star")


def label(text: str) -> str:
    """Escape a string for plotly's texts, which would otherwise read tags and entities in it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def training_curves(training: pl.DataFrame, colours: Colours) -> Plot:
    """Draw the training loss of every member against the tokens it has seen."""
    dashes = member_dashes(list(colours))
    data = [
        _line(
            rows["tokens"], rows["loss"], label(name), colours.get(name, "var(--quiet)"),
            dash=dashes.get(name, "solid"), hovertemplate="%{y:.3f} nats/token after %{x:,} tokens",
        )
        for name, rows in _groups(training.sort("step"), "member")
    ]  # fmt: skip
    return {"data": data, "layout": layout(x="tokens seen", y="training loss, nats/token")}


def sweep(
    table: pl.DataFrame,
    measure: str,
    colours: Colours,
    base: Mapping[str, float],
    children: Mapping[str, float],
) -> Plot:
    """Draw a measure of the merge on each domain against t, beside the base and the children.

    Args:
        table: t, domain, chosen and the column `measure`.
        measure: 'accuracy' (drawn in per cent) or 'loss' (nats/token).
        colours: of each domain.
        base: the base's value on each domain, a dashed line; may be empty.
        children: each domain's own child's value, a dotted line; may be empty.
    """
    scale, unit = (100.0, "accuracy, %") if measure == "accuracy" else (1.0, "loss, nats/token")
    points = sorted(set(table["t"]))
    ends = [points[0], points[-1]]
    data = []
    for domain, rows in _groups(table.sort("t"), "domain"):
        colour, name = colours.get(domain, "var(--quiet)"), label(domain)
        data.append(
            _line(rows["t"], rows[measure] * scale, f"{name}: merge", colour, mode="lines+markers",
                  hovertemplate="%{y:.3f} at t = %{x:.2f}")
        )  # fmt: skip
        for values, who, dash in ((base, "base", "dash"), (children, "own child", "dot")):
            if domain in values:
                data.append(
                    _line(ends, [values[domain] * scale] * 2, f"{name}: {who}", colour, dash=dash, width=1.4)
                )
    chosen = table.filter("chosen")["t"].to_list()
    marks = [_upright(chosen[0], f"chosen t = {chosen[0]:.2f}")] if chosen else []
    return {"data": data, "layout": layout(x="t", y=unit, marks=marks)}


def l0_curve(curve: pl.DataFrame, measure: str, title: str, colours: Colours) -> Plot:
    """Draw FVU or CE recovered against L0 for every member and SAE variant, mean over the seeds that the table has."""
    data = []
    means = curve.group_by("member", "variant", "k", maintain_order=True).agg(
        pl.col("l0").mean(), pl.col(measure).mean()
    )
    for (name, variant), rows in means.sort("l0").group_by("member", "variant", maintain_order=True):
        dash = "solid" if variant == "topk" else "dash"
        colour = colours.get(str(name), "var(--quiet)")
        line = _line(rows["l0"], rows[measure], label(f"{name}, {variant}"), colour, dash=dash)
        data.append(line | {"mode": "lines+markers", "hovertemplate": "%{y:.4f} at L0 = %{x:.1f}"})
    order = {name: index for index, name in enumerate(colours)}
    data.sort(key=lambda trace: order.get(trace["name"].rsplit(", ", 1)[0], len(order)))
    drawn = layout(x="L0, latents firing per token (log scale)", y=title)
    least, most = 0.98 * min(means["l0"]), 1.02 * max(means["l0"])  # an L0 of 63.9 stands at 64
    powers = [value for value in (2**n for n in range(16)) if least <= value <= most]
    drawn["xaxis"] |= {"type": "log", "tickvals": powers, "ticktext": [str(value) for value in powers]}
    return {"data": data, "layout": drawn}


def sankey(flows: pl.DataFrame, colours: Colours, parents: Mapping[str, Sequence[str]]) -> Plot:
    """Draw features flowing through the family, from the left to the right.

    A node is named 'MEMBER' or 'MEMBER: note' and takes the member's colour; a link takes its verdict's.
    Members stand in the column of their generation, what emerges comes in above, what is lost leaves below.
    """
    nodes = list(dict.fromkeys(name for row in flows.select("source", "target").iter_rows() for name in row))
    index = {name: position for position, name in enumerate(nodes)}
    x, y = sankey_places(flows, nodes, parents)
    shares = [f"{100 * share:.1f} %" for share in flows["share"]]
    trace = {
        "type": "sankey",
        "arrangement": "snap",
        "valueformat": ",.0f",
        "valuesuffix": " latents",
        "textfont": _font(13),
        "node": {
            "label": [label(name) for name in nodes],
            "color": [colours.get(_member(name), "var(--quiet)") for name in nodes],
            "x": x,
            "y": y,
            "pad": 20,
            "thickness": 14,
            "line": {"width": 0},
        },
        "link": {
            "source": [index[name] for name in flows["source"]],
            "target": [index[name] for name in flows["target"]],
            "value": flows["count"].to_list(),
            "color": [f"var(--{verdict_of(kind)}-soft)" for kind in flows["kind"]],
            "label": [f"{label(kind)}, {share}" for kind, share in zip(flows["kind"], shares, strict=True)],
        },
    }
    margin = {"l": 8, "r": 8, "t": 12, "b": 12}
    return {"data": [trace], "layout": {"font": _font(13), "paper_bgcolor": _CLEAR, "margin": margin}}


def sankey_places(
    flows: pl.DataFrame, nodes: Sequence[str], parents: Mapping[str, Sequence[str]]
) -> tuple[list[float], list[float]]:
    """Place the nodes: x and y of each in (0, 1), y of its middle and growing downwards."""
    generation: dict[str, int] = {}
    for name, above in parents.items():
        generation[name] = 1 + max((generation.get(parent, 0) for parent in above), default=-1)
    incoming: dict[str, float] = {}
    outgoing: dict[str, float] = {}
    for source, target, count in flows.select("source", "target", "count").iter_rows():
        outgoing[source] = outgoing.get(source, 0.0) + count
        incoming[target] = incoming.get(target, 0.0) + count
    last = max(generation.values(), default=0)
    columns: dict[tuple[str, float], list[str]] = {}
    for name in nodes:
        depth, zone = float(generation.get(_member(name), 0)), "middle"
        if depth > 0 and name not in incoming:
            depth, zone = depth - 0.45, "above"
        elif depth < last and name not in outgoing:
            depth, zone = depth + 0.45, "below"
        columns.setdefault((zone, depth), []).append(name)
    size = {name: max(incoming.get(name, 0.0), outgoing.get(name, 0.0)) for name in nodes}
    gap = 0.06 * max(size.values(), default=1.0)
    heights = {"above": 0.0, "middle": 0.0, "below": 0.0}
    for (zone, _), names in columns.items():
        heights[zone] = max(heights[zone], sum(size[name] + gap for name in names))
    starts = {"above": 0.0, "middle": heights["above"], "below": heights["above"] + heights["middle"]}
    total = sum(heights.values())
    x, y = dict.fromkeys(nodes, 0.0), dict.fromkeys(nodes, 0.0)
    for (zone, depth), names in columns.items():
        top = starts[zone]
        if zone == "middle":
            top += (heights[zone] - sum(size[name] + gap for name in names)) / 2
        for name in names:
            x[name] = 0.001 + 0.998 * depth / max(last, 1)  # plotly takes an exact 0 for "not given"
            y[name] = min(0.999, max(0.001, (top + size[name] / 2) / total))
            top += size[name] + gap
    return list(x.values()), list(y.values())


def r_histogram(histogram: pl.DataFrame, tau: float) -> Plot:
    """Draw how the best correlations of one edge are spread, against their floor and ceiling."""
    data: list[Plot] = []
    for kind, rows in _groups(histogram.sort("low"), "kind"):
        if kind == "observed":
            data.append(
                {
                    "type": "bar", "name": "this edge", "x": ((rows["low"] + rows["high"]) / 2).to_list(),
                    "y": (rows["share"] * 100).to_list(), "width": (rows["high"] - rows["low"]).to_list(),
                    "marker": {
                        "color": "var(--persists-soft)", "line": {"color": "var(--persists)", "width": 1},
                    },
                    "hovertemplate": "%{y:.1f} % near r = %{x:.2f}",
                }
            )  # fmt: skip
            continue
        colour, dash = ("var(--quiet)", "dot") if kind == "floor" else ("var(--ink)", "dash")
        x, y = [*rows["low"], rows["high"][-1]], [*(rows["share"] * 100), rows["share"][-1] * 100]
        data.append(
            _line(
                x, y, label(kind), colour, dash=dash, shape="hv", hovertemplate="%{y:.1f} % from r = %{x:.2f}"
            )
        )
    drawn = layout(x="best r of each latent", y="latents, %", marks=[_upright(tau, f"τ = {tau:.2f}")])
    if cut_off(histogram):
        drawn["yaxis"] |= {"range": [0, 115 * _tallest(histogram)]}
    return {"data": data, "layout": drawn | {"bargap": 0}}


def cut_off(histogram: pl.DataFrame) -> bool:
    """Say whether the floor's peak near r = 0 would press all else flat, so that a histogram leaves its top out."""
    floor = histogram.filter(kind="floor")
    return bool(floor.height and float(floor["share"].max() or 0) > 2 * _tallest(histogram) > 0)  # type: ignore[arg-type]


def _tallest(histogram: pl.DataFrame) -> float:
    shares = histogram.filter(pl.col("kind") != "floor")["share"]
    return float(shares.max() or 0) if len(shares) else 0.0  # type: ignore[arg-type]


def tau_curve(curve: pl.DataFrame, tau: float) -> Plot:
    """Draw the share that persists on one edge against τ, between its floor and its ceiling.

    Where they are known its interval is shaded, and the bound of the false-discovery rate has a line of its own.
    """
    curve = curve.sort("tau")
    x = curve["tau"]
    hover = "%{y:.1f} % at τ = %{x:.2f}"
    data = [
        *_interval(curve, "persist", "var(--persists-soft)"),
        _line(x, curve["ceiling"] * 100, "ceiling", "var(--ink)", dash="dash", hovertemplate=hover),
        _line(x, curve["persist"] * 100, "persists", "var(--persists)", width=2.6, hovertemplate=hover),
        _line(x, curve["floor"] * 100, "floor", "var(--quiet)", dash="dot", hovertemplate=hover),
    ]
    if "fdr_high" in curve.columns and curve["fdr_high"].count():
        known = curve.drop_nulls("fdr_high")
        data.append(
            _line(
                known["tau"], known["fdr_high"] * 100, "false, at most",
                "var(--disappears)", dash="dashdot", customdata=(known["fdr"] * 100).to_list(),
                hovertemplate="%{customdata:.2f} % of the matches expected false, at most %{y:.1f} %, at τ = %{x:.2f}",
            )
        )  # fmt: skip
    drawn = layout(x="τ, least r of a match", y="latents, %", marks=[_upright(tau, f"τ = {tau:.2f}")])
    drawn["yaxis"] |= {"rangemode": "tozero"}
    return {"data": data, "layout": drawn}


def by_distance(edges: pl.DataFrame, colours: Colours) -> Plot:
    """Draw heritability with its interval against the weight distance, one point per edge."""
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": label(f"{row['parent']} → {row['child']}"),
            "x": [row["distance"]],
            "y": [row["heritability"]],
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [row["heritability_high"] - row["heritability"]],
                "arrayminus": [row["heritability"] - row["heritability_low"]],
                "color": colours.get(row["child"], "var(--quiet)"),
            },
            "marker": {
                "size": 11,
                "color": colours.get(row["child"], "var(--quiet)"),
                "symbol": _SYMBOLS[place % len(_SYMBOLS)],
            },
            "hovertemplate": "%{y:.2f} at distance %{x:.2f}",
        }
        for place, row in enumerate(edges.iter_rows(named=True))
    ]
    drawn = layout(x="distance between the two models' weights", y="heritability")
    drawn["xaxis"] |= {"rangemode": "tozero"}
    drawn["yaxis"] |= {"rangemode": "tozero"}
    return {"data": data, "layout": drawn}


def layout(*, x: str, y: str, marks: Sequence[Mapping[str, Any]] = ()) -> Plot:
    """Return what all plots share: clear background, theme colours, legend above, marks as upright lines."""
    axis = {
        "gridcolor": "var(--line)", "linecolor": "var(--line)", "zeroline": False, "automargin": True,
        "tickfont": _font(12), "fixedrange": True,
    }  # fmt: skip
    return {
        "font": _font(13),
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "margin": {"l": 48, "r": 10, "t": 26, "b": 42},
        "xaxis": axis | {"title": {"text": x, "standoff": 8, "font": _font(13)}},
        "yaxis": axis | {"title": {"text": y, "standoff": 8, "font": _font(13)}},
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.12,
            "yanchor": "bottom",
            "font": _font(12.5),
        },
        "showlegend": True,
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "var(--panel)", "bordercolor": "var(--line)", "font": _font(13)},
        "shapes": [mark["shape"] for mark in marks],
        "annotations": [mark["annotation"] for mark in marks],
    }


def _member(node: str) -> str:
    return node.split(":")[0].strip()


def _line(
    x: Any,
    y: Any,
    name: str,
    color: str,
    *,
    dash: str = "solid",
    width: float = 2,
    shape: str = "linear",
    **more: Any,
) -> Plot:
    line = {"color": color, "dash": dash, "width": width, "shape": shape}
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(x),
        "y": list(y),
        "line": line,
        **more,
    }


def _interval(table: pl.DataFrame, column: str, colour: str) -> list[Plot]:
    """Shade from a share's lower bound to its upper one along τ, where both are known."""
    low, high = f"{column}_low", f"{column}_high"
    if low not in table.columns or high not in table.columns:
        return []
    x, none = table["tau"], "rgba(0,0,0,0)"
    quiet: Plot = {"showlegend": False, "hoverinfo": "skip"}
    return [
        _line(x, table[low] * 100, "lower bound", none, width=0, **quiet),
        _line(x, table[high] * 100, "upper bound", none, width=0, fill="tonexty", fillcolor=colour, **quiet),
    ]


def _upright(x: float, text: str) -> Plot:
    """Mark a value of x by a line from bottom to top, named above the plot."""
    line = {
        "type": "line",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": "var(--quiet)", "width": 1.2},
    }
    note = {
        "x": x,
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "text": text,
        "showarrow": False,
        "font": _font(12),
    }
    return {"shape": line, "annotation": note}


def _font(size: float) -> Plot:
    return {
        "color": "var(--ink)",
        "size": size,
        "family": "system-ui, Segoe UI, Roboto, Liberation Sans, DejaVu Sans, sans-serif",
    }


def _groups(table: pl.DataFrame, column: str) -> list[tuple[str, pl.DataFrame]]:
    return [(str(key[0]), rows) for key, rows in table.group_by(column, maintain_order=True)]
