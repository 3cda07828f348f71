"""From a map's tables to plotly figures as plain values: pictures, dendrogram, heatmap, where models part."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from heredity.report.figures import Plot, label, layout

SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star", "hexagon")
SIGNED = [[0.0, "var(--member-2)"], [0.5, "var(--page)"], [1.0, "var(--member-1)"]]


def short(tensor: str) -> str:
    """Shorten a tensor's name for an axis: 'model.layers.0.mlp.up_proj.weight' → '0.mlp.up_proj'."""
    name = tensor.removesuffix(".weight")
    for prefix in ("model.", "transformer.", "bert.", "encoder.", "layers.", "layer.", "h."):
        name = name.removeprefix(prefix)
    return name


def picture(
    points: pl.DataFrame,
    trust: Mapping[str, Any],
    group_of: Mapping[str, str],
    colours: Mapping[str, str],
    base: str | None = None,
) -> Plot:
    """Draw models on a plane, one trace per group; stress and trustworthiness stand on the plot itself.

    Args:
        points: model, x, y.
        trust: stress, trustworthiness, explained_x, explained_y.
        group_of: group of each model; the others are drawn alone, with their names.
        colours: of each group, in order.
        base: the model drawn as a cross.
    """
    data: list[Plot] = []
    named = points.height <= 14
    groups = {model: group_of.get(model, "") for model in points["model"]}
    for place, group in enumerate(colours):
        rows = points.filter(pl.Series([groups[model] == group for model in points["model"]]))
        if rows.height:
            marker = {"size": 11, "color": colours[group], "symbol": SYMBOLS[place % len(SYMBOLS)]}
            data.append(_points(rows, label(group), marker, named))
    rest = pl.Series([groups[model] not in colours for model in points["model"]])
    cross = pl.Series([model == base for model in points["model"]])
    for names, rows in (
        ("models", points.filter(rest & ~cross)),
        ("base", points.filter(rest & cross)),
    ):
        if rows.height:
            shape = {"size": 13, "symbol": "x-thin"} if names == "base" else {"size": 10, "symbol": "circle"}
            marker = shape | {"color": "var(--quiet)", "line": {"width": 2.5, "color": "var(--ink)"}}
            data.append(_points(rows, "no label" if names == "models" and colours else names, marker, True))
    shares = [f"{100 * trust[f'explained_{axis}']:.0f} % of squared distance" for axis in "xy"]
    drawn = layout(x=f"axis 1, {shares[0]}", y=f"axis 2, {shares[1]}")
    known = trust["trustworthiness"]
    note = f"stress {trust['stress']:.2f}" + (f" · trustworthiness {known:.2f}" if known is not None else "")
    drawn["annotations"] = [{
        "x": 0, "y": 1.01, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom",
        "text": note, "showarrow": False, "font": {"size": 12.5, "color": "var(--ink)"},
        "bgcolor": "var(--panel)", "borderpad": 4,
    }]  # fmt: skip
    drawn["yaxis"] |= {"scaleanchor": "x", "scaleratio": 1}
    drawn["legend"] |= {"y": 1.09}
    drawn["showlegend"] = bool(colours)
    return {"data": data, "layout": drawn}


def leaf_order(tree: pl.DataFrame, names: Sequence[str]) -> list[str]:
    """Order models as the leaves of the dendrogram stand."""
    below: list[list[int]] = [[index] for index in range(len(names))]
    for left, right in tree.select("left", "right").iter_rows():
        below.append(below[left] + below[right])
    return [names[index] for index in below[-1]]


def dendrogram(tree: pl.DataFrame, names: Sequence[str], colours: Mapping[str, str]) -> Plot:
    """Draw the tree with its leaves at the left, one below the other, and heights to the right."""
    order = leaf_order(tree, names)
    place = {name: float(index) for index, name in enumerate(order)}
    ends = [(place[name], 0.0) for name in names]
    x: list[float | None] = []
    y: list[float | None] = []
    for left, right, height in tree.select("left", "right", "height").iter_rows():
        (low, from_low), (high, from_high) = ends[left], ends[right]
        x += [from_low, height, height, from_high, None]
        y += [low, low, high, high, None]
        ends.append(((low + high) / 2, height))
    lines = {
        "type": "scatter", "mode": "lines", "x": x, "y": y, "line": {"color": "var(--quiet)", "width": 1.6},
        "hoverinfo": "skip", "showlegend": False,
    }  # fmt: skip
    leaves = {
        "type": "scatter", "mode": "markers", "x": [0.0] * len(order), "y": [place[name] for name in order],
        "marker": {"size": 8, "color": [colours.get(name, "var(--quiet)") for name in order]},
        "text": [label(name) for name in order], "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False, "cliponaxis": False,
    }  # fmt: skip
    drawn = layout(x="distance of directions at which they meet, √(2 − 2·cosine)", y="")
    drawn["yaxis"] |= _ticks(order) | {"showgrid": False, "autorange": "reversed"}
    drawn["xaxis"] |= {"range": [0, 1.04 * max(tree["height"])]}
    drawn["margin"] |= {"t": 8}
    return {"data": [lines, leaves], "layout": drawn}


def heatmap(values: Sequence[Sequence[float | None]], names: Sequence[str]) -> Plot:
    """Draw cosines of all pairs, white at 0; the diagonal is left blank."""
    order = [label(name) for name in names]
    drawn = layout(x="", y="")
    drawn["xaxis"] |= _ticks(order) | {"tickangle": -90, "showgrid": False}
    drawn["yaxis"] |= _ticks(order) | {"autorange": "reversed", "showgrid": False}
    drawn["margin"] |= {"t": 8}
    trace = _heat(values, "%{customdata}: cosine %{z:.3f}<extra></extra>", _widest(values))
    trace["customdata"] = [[f"{first} and {second}" for second in order] for first in order]
    return {"data": [trace], "layout": drawn}


def parting(
    cubes: Mapping[str, Sequence[Sequence[float | None]]], groups: Sequence[str], names: Sequence[str]
) -> Plot:
    """Draw, for one model at a time, its cosine with every other model in every group of tensors.

    Args:
        cubes: model → [others, groups].
        groups: of tensors, in order.
        names: all models, in the order of the rows; the chosen model's own row is blank.
    """
    first = names[0]
    most = max(_widest(values) for values in cubes.values())
    trace = _heat(cubes[first], "%{customdata}, %{x}: cosine %{z:.3f}<extra></extra>", most)
    trace |= {"x": [label(short(group)) for group in groups]}
    trace["customdata"] = [[label(name)] * len(groups) for name in names]
    drawn = layout(x="", y="")
    drawn["xaxis"] |= {"showgrid": False, "tickangle": _angle(groups), "type": "category"}
    drawn["yaxis"] |= _ticks(names) | {"autorange": "reversed", "showgrid": False}
    drawn["margin"] |= {"t": 58}
    drawn["updatemenus"] = [{
        "type": "dropdown", "direction": "down", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom",
        "pad": {"b": 8}, "bgcolor": "var(--panel)", "bordercolor": "var(--line)",
        "font": {"size": 13, "color": "var(--ink)"},
        "buttons": [
            {"label": f"{name} against the others", "method": "restyle", "args": [{"z": [cubes[name]]}]}
            for name in names
        ],
    }]  # fmt: skip
    return {"data": [trace], "layout": drawn}


def by_group(table: pl.DataFrame, groups: Sequence[str], what: str) -> Plot:
    """Draw the mean cosine of pairs with one label and of other pairs, in every group of tensors."""
    data = []
    for name, column, colour, symbol in (
        (f"same {what}", "within", "var(--member-1)", "circle"),
        (f"another {what}", "between", "var(--member-2)", "diamond"),
    ):
        data.append(
            {"type": "scatter", "mode": "lines+markers", "name": name, "x": [label(short(g)) for g in groups],
             "y": table[column].to_list(), "line": {"color": colour, "width": 2},
             "marker": {"symbol": symbol, "size": 9, "color": colour}, "hovertemplate": "%{y:.3f} in %{x}"}
        )  # fmt: skip
    drawn = layout(x="", y="mean cosine")
    drawn["xaxis"] |= {"type": "category", "tickangle": _angle(groups)}
    return {"data": data, "layout": drawn}


def room(groups: Sequence[str]) -> int:
    """Return the pixels that the names of groups need below an axis."""
    return 0 if _angle(groups) == 0 else 6 * max(len(short(group)) for group in groups)


def _angle(groups: Sequence[str]) -> int:
    return 0 if sum(len(short(group)) for group in groups) <= 70 else -60


def _points(rows: pl.DataFrame, name: str, marker: Plot, named: bool) -> Plot:
    texts = [label(model) for model in rows["model"]]
    sides = ["top center" if rank % 2 else "bottom center" for rank in rows["x"].rank("ordinal")]
    return {
        "type": "scatter", "mode": "markers+text" if named else "markers", "name": name,
        "x": rows["x"].to_list(), "y": rows["y"].to_list(), "text": texts, "textposition": sides,
        "textfont": {"size": 12, "color": "var(--ink)"}, "cliponaxis": False, "marker": marker,
        "hovertemplate": "%{text} (%{x:.3f}, %{y:.3f})<extra></extra>",
    }  # fmt: skip


def _heat(values: Sequence[Sequence[float | None]], hover: str, most: float) -> Plot:
    return {
        "type": "heatmap", "z": [list(row) for row in values], "colorscale": SIGNED, "zmin": -most,
        "zmax": most,
        "hovertemplate": hover, "hoverongaps": False, "xgap": 1, "ygap": 1,
        "colorbar": {"thickness": 12, "outlinewidth": 0, "tickfont": {"size": 12, "color": "var(--ink)"}},
    }  # fmt: skip


def _widest(values: Sequence[Sequence[float | None]]) -> float:
    return max((abs(value) for row in values for value in row if value is not None), default=1.0) or 1.0


def _ticks(names: Sequence[str]) -> Plot:
    places = list(range(len(names)))
    return {"tickmode": "array", "tickvals": places, "ticktext": [label(name) for name in names]}
