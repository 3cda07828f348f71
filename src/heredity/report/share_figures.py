"""Figures that set a measured value between what chance gives and what could be had at best, row by row."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from heredity.report.figures import Plot, label, layout

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")
_STEP = 0.24
_ROW, _LINE, _FRAME = 16, 20, 104


def between(
    rows: pl.DataFrame,
    *,
    x: str,
    percent: bool = True,
    chance: str = "floor",
    top: str = "ceiling",
    below: float = 0.0,
) -> Plot:
    """Draw one line per row and series: chance, the value with its interval, and the ceiling.

    Args:
        rows: row, series (both drawn in the order in which they come), value, low, high, floor; may have floor_low,
            floor_high and ceiling. Null leaves a mark out.
        x: title of the axis.
        percent: the values are shares, drawn in per cent.
        chance: what the floor is called.
        top: what the ceiling is called.
        below: how far, in rows, the floor is drawn under its value.
    """
    names = list(rows["row"].unique(maintain_order=True))
    series = list(rows["series"].unique(maintain_order=True))
    scale, ending = (100.0, " %") if percent else (1.0, "")
    places = {
        (row, one): -names.index(row) + _STEP * ((len(series) - 1) / 2 - series.index(one))
        for row in names for one in series
    }  # fmt: skip
    y = [places[row, one] for row, one in rows.select("row", "series").iter_rows()]
    table = rows.with_columns(_y=pl.Series(y, dtype=pl.Float64))
    data = [
        _tracks(table, scale),
        _marks(table, "floor", chance, "var(--quiet)", "x-thin-open", scale, ending),
    ]
    if below:  # an interval of its own would be hidden by the value's
        data[-1] = _lowered(data[-1], below)
    if "ceiling" in rows.columns and rows["ceiling"].count():
        data.append(_marks(table, "ceiling", top, "var(--ink)", "line-ns-open", scale, ending))
    for place, one in enumerate(series):
        own = table.filter(pl.col("series") == one).drop_nulls("value")
        data.append(_values(own, one, _SYMBOLS[place % len(_SYMBOLS)], scale, ending))
    drawn = layout(x=x, y="")
    drawn["yaxis"] |= {
        "tickvals": [-place for place in range(len(names))], "ticktext": [label(name) for name in names],
        "range": [-len(names) + 0.45, 0.55], "showgrid": False,
    }  # fmt: skip
    drawn["legend"] |= {"y": 1.0, "yanchor": "bottom"}
    if percent:
        columns = [column for column in ("value", "high", "floor", "ceiling") if column in rows.columns]
        most = max((value for column in columns for value in rows[column].drop_nulls()), default=1.0) or 1.0
        drawn["xaxis"] |= {"range": [-1.5 * most, 104 * most]}  # room for the marks at 0
    else:
        drawn["xaxis"] |= {"zeroline": True, "zerolinecolor": "var(--quiet)", "zerolinewidth": 1}
    return {"data": data, "layout": drawn}


def height(n_rows: int, n_series: int) -> int:
    """Return the pixels that so many rows of so many series want."""
    return _FRAME + n_rows * (_ROW + _LINE * n_series)


def _tracks(table: pl.DataFrame, scale: float) -> Plot:
    """Join each line's chance with its ceiling, or its value where there is none, by a thin line."""
    x: list[float | None] = []
    y: list[float | None] = []
    for row in table.iter_rows(named=True):
        ends = [value for value in (row["floor"], row["value"], row.get("ceiling")) if value is not None]
        if len(ends) > 1:
            x += [min(ends) * scale, max(ends) * scale, None]
            y += [row["_y"], row["_y"], None]
    line = {"color": "var(--line)", "width": 2}
    return {
        "type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "showlegend": False, "hoverinfo": "skip",
    }  # fmt: skip


def _marks(
    table: pl.DataFrame, column: str, name: str, colour: str, symbol: str, scale: float, ending: str
) -> Plot:
    own = table.drop_nulls(column)
    drawn: Plot = {
        "type": "scatter", "mode": "markers", "name": label(name), "y": own["_y"].to_list(),
        "x": (own[column] * scale).to_list(), "hovertemplate": f"{label(name)} %{{x:.3~g}}{ending}<extra></extra>",
        "marker": {"symbol": symbol, "size": 9, "color": colour, "line": {"width": 2, "color": colour}},
    }  # fmt: skip
    bounds = [f"{column}_low", f"{column}_high"]
    if all(bound in own.columns for bound in bounds):
        drawn["error_x"] = _bars(own[column], own[bounds[0]], own[bounds[1]], scale, colour)
    return drawn


def _lowered(trace: Plot, by: float) -> Plot:
    return trace | {"y": [place - by for place in trace["y"]]}


def _values(own: pl.DataFrame, name: str, symbol: str, scale: float, ending: str) -> Plot:
    return {
        "type": "scatter", "mode": "markers", "name": label(name), "x": (own["value"] * scale).to_list(),
        "y": own["_y"].to_list(), "hovertemplate": f"{label(name)} %{{x:.3~g}}{ending}<extra></extra>",
        "marker": {"symbol": symbol, "size": 10, "color": "var(--persists)"},
        "error_x": _bars(own["value"], own["low"], own["high"], scale, "var(--persists)"),
    }  # fmt: skip


def _bars(
    middle: Sequence[Any] | pl.Series,
    low: Sequence[Any] | pl.Series,
    high: Sequence[Any] | pl.Series,
    scale: float,
    colour: str,
) -> Plot:
    """Error bars to both bounds; none where a bound is not known."""
    up = [0.0 if b is None else max(0.0, (b - a) * scale) for a, b in zip(middle, high, strict=True)]
    down = [0.0 if b is None else max(0.0, (a - b) * scale) for a, b in zip(middle, low, strict=True)]
    return {
        "type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": colour, "thickness": 1.6,
        "width": 3,
    }  # fmt: skip
