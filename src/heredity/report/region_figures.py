"""From tables of measured places to plotly figures as plain values: curves, surfaces, groups of losses."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from heredity.report.figures import Plot, label, layout
from heredity.report.palette import member_colours, member_dashes

ROLES = {"In": "var(--persists)", "In′": "var(--emerges)", "Ex": "var(--disappears)"}
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star")


def curves(
    table: pl.DataFrame, x: str, y: str, by: str, *, x_title: str, y_title: str, marks: Sequence[float] = ()
) -> Plot:
    """Draw one line for each value of `by`; places without a finite value are gaps, columns low and high are bars."""
    names = [str(name) for name in table[by].unique(maintain_order=True)]
    colours, dashes = member_colours(names), member_dashes(names)
    data = []
    for name in names:
        rows = table.filter(pl.col(by).cast(pl.String) == name).sort(x)
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": label(name), "x": rows[x].to_list(),
            "y": finite(rows[y].to_list()), "line": {"color": colours[name], "dash": dashes[name], "width": 2},
            "marker": {"size": 6}, "hovertemplate": "%{y:.4f} at %{x:.3g}",
        })  # fmt: skip
        if {"low", "high"} <= set(table.columns):
            data[-1]["error_y"] = {
                "type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": colours[name],
                "array": finite((rows["high"] - rows[y]).to_list()),
                "arrayminus": finite((rows[y] - rows["low"]).to_list()),
            }  # fmt: skip
    drawn = layout(x=x_title, y=y_title)
    drawn["shapes"] = [
        {
            "type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"color": "var(--quiet)", "width": 1},
        }
        for at in marks
    ]  # fmt: skip
    return {"data": data, "layout": drawn}


def unfolded(alphas: Sequence[float]) -> list[float]:
    """Lay α on an axis that is linear from end to end and goes on in powers of two past both.

    >>> unfolded([-3, 0, 0.5, 1, 4])
    [-2.0, 0, 0.5, 1, 3.0]
    """
    return [1 + math.log2(a) if a > 1 else -math.log2(1 - a) if a < 0 else a for a in alphas]


def edge_curves(table: pl.DataFrame, by: str, *, y: str = "loss", y_title: str = "loss, nats") -> Plot:
    """Draw losses against α, the ends marked, the axis unfolded past them."""
    spread = table.with_columns(position=pl.Series(unfolded(table["alpha"].to_list()), dtype=pl.Float64))
    drawn = curves(
        spread, "position", y, by, x_title="α (powers of two past the ends)", y_title=y_title, marks=(0, 1)
    )
    alphas = sorted(dict.fromkeys(table["alpha"].to_list()))
    shown = [a for a in alphas if a in (0.0, 1.0) or a < 0 or a > 1]
    drawn["layout"]["xaxis"] |= {
        "tickvals": unfolded(shown),
        "ticktext": [f"{a:.3g}".replace("-", "−") for a in shown],
    }
    return drawn


def surface(table: pl.DataFrame, members: pl.DataFrame, data: str) -> Plot:
    """Draw the loss over a plane as a contour, with the models where they lie on it."""
    here = table.filter(pl.col("data") == data)
    xs, ys = sorted(dict.fromkeys(here["x"].to_list())), sorted(dict.fromkeys(here["y"].to_list()))
    values = {(row["x"], row["y"]): row["loss"] for row in here.iter_rows(named=True)}
    z = [finite([values.get((x, y)) for x in xs]) for y in ys]
    contour = {
        "type": "contour", "x": xs, "y": ys, "z": z, "ncontours": 18, "connectgaps": False,
        "colorscale": [[0.0, "var(--member-1)"], [0.5, "var(--panel)"], [1.0, "var(--member-2)"]],
        "contours": {"showlabels": True, "labelfont": {"size": 11, "color": "var(--ink)"}},
        "line": {"width": 0.6, "color": "var(--quiet)"}, "hovertemplate": "loss %{z:.4f}", "name": "loss",
        "colorbar": {"title": {"text": "nats"}, "thickness": 12, "tickfont": {"color": "var(--ink)"}},
    }  # fmt: skip
    traces: list[Plot] = [contour]
    for corner, symbol in ((True, "star"), (False, "circle")):
        rows = members.filter((pl.col("data") == data) & (pl.col("corner") == corner))
        if rows.height:
            traces.append({
                "type": "scatter", "mode": "markers+text", "x": rows["x"].to_list(), "y": rows["y"].to_list(),
                "text": [label(name) for name in rows["place"]], "textposition": "top center",
                "name": "on the plane" if corner else "beside it",
                "marker": {
                    "size": 13 if corner else 8, "symbol": symbol, "color": "var(--ink)",
                    "line": {"width": 1.5, "color": "var(--page)"},
                },
                "customdata": [[d, loss] for d, loss in rows.select("distance", "loss").iter_rows()],
                "hovertemplate": "%{text}: %{customdata[0]:.3g} off the plane, own loss %{customdata[1]:.4f}",
            })  # fmt: skip
    drawn = layout(x="from the first model towards the second", y="at a right angle, towards the third")
    drawn["yaxis"] |= {"scaleanchor": "x", "scaleratio": 1}
    return {"data": traces, "layout": drawn}


def roles(places: pl.DataFrame) -> Plot:
    """Draw the losses of every level's members, mixtures and outsiders side by side, one point for each place."""
    levels = list(dict.fromkeys(places["level"].to_list()))
    data = []
    for place, (role, colour) in enumerate(ROLES.items()):
        rows = places.filter(pl.col("role") == role)
        if rows.is_empty():
            continue
        position = [levels.index(level) + 0.26 * (place - 1) for level in rows["level"]]
        data.append({
            "type": "scatter", "mode": "markers", "name": role, "x": position, "y": finite(rows["loss"].to_list()),
            "marker": {"size": 7, "color": colour, "symbol": _SYMBOLS[place], "opacity": 0.75},
            "text": [label(name) for name in rows["place"]], "hovertemplate": "%{text}: %{y:.4f}",
        })  # fmt: skip
    drawn = layout(x="", y="loss, nats")
    drawn["xaxis"] |= {"tickvals": list(range(len(levels))), "ticktext": [label(level) for level in levels]}
    return {"data": data, "layout": drawn}


def scatter(table: pl.DataFrame, x: str, y: str, by: str, colours: Mapping[str, str], *, text: str) -> Plot:
    """Draw points, one trace for each value of `by`, with the names of `text` on hover."""
    data = []
    for place, (name, colour) in enumerate(colours.items()):
        rows = table.filter(pl.col(by) == name)
        data.append({
            "type": "scatter", "mode": "markers", "name": label(name), "x": rows[x].to_list(), "y": rows[y].to_list(),
            "marker": {"size": 9, "color": colour, "symbol": _SYMBOLS[place % len(_SYMBOLS)]},
            "text": [label(value) for value in rows[text]], "hovertemplate": "%{text}",
        })  # fmt: skip
    drawn = layout(x="axis 1", y="axis 2")
    drawn["yaxis"] |= {"scaleanchor": "x", "scaleratio": 1}
    return {"data": data, "layout": drawn}


def intervals(rows: Sequence[Mapping[str, Any]], *, x_title: str, zero: bool = True) -> Plot:
    """Draw values with their intervals, one below the other.

    Args:
        rows: name, value, low, high (None: no interval) and optionally colour.
        x_title: what the values are.
        zero: mark 0.
    """
    shown = list(reversed(rows))
    trace = {
        "type": "scatter", "mode": "markers", "x": [row["value"] for row in shown],
        "y": [label(row["name"]) for row in shown],
        "marker": {"size": 9, "color": [row.get("colour", "var(--member-1)") for row in shown]},
        "error_x": {
            "type": "data", "symmetric": False, "array": [_beyond(row["value"], row["high"]) for row in shown],
            "arrayminus": [_beyond(row["low"], row["value"]) for row in shown], "color": "var(--quiet)",
        },
        "hovertemplate": "%{y}: %{x:.4f}", "name": "",
    }  # fmt: skip
    drawn = layout(x=x_title, y="")
    drawn["showlegend"] = False
    if zero:
        drawn["shapes"] = [{
            "type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper",
            "line": {"color": "var(--quiet)", "width": 1},
        }]  # fmt: skip
    return {"data": [trace], "layout": drawn}


def finite(values: Sequence[float | None]) -> list[float | None]:
    """Replace what is not finite by gaps, which JSON can hold."""
    return [value if value is not None and math.isfinite(value) else None for value in values]


def _beyond(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else high - low
