"""From a merge's rows to plotly figures as plain values: a line for each model, a field for each layer and kind."""

from collections.abc import Mapping, Sequence
from typing import Any

from heredity.report.figures import Plot, label, layout
from heredity.report.palette import DASHES

SIGNED = [[0.0, "var(--member-2)"], [0.5, "var(--page)"], [1.0, "var(--member-1)"]]
AMOUNT = [[0.0, "var(--page)"], [1.0, "var(--member-1)"]]
TOWARDS = [[0.0, "var(--member-1)"], [0.5, "var(--page)"], [1.0, "var(--member-2)"]]  # of two models
OUTSIDE = "outside"

_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star", "hexagon", "x")


def place(layer: int | None) -> str:
    """Name a layer on an axis; tensors outside the layers share one place."""
    return OUTSIDE if layer is None else str(layer)


def lines(
    rows: Sequence[Mapping[str, Any]], column: str, names: Sequence[str], colours: Sequence[str], y: str
) -> Plot:
    """Draw a list of values per layer, one line for each model; what is outside the layers stands apart.

    Args:
        rows: one for each layer, in order, with the list in `column`.
        column: name of it.
        names: of the models, in the order of the list.
        colours: CSS variable of each.
        y: title of the axis.
    """
    data = []
    inside = [row for row in rows if row["layer"] is not None]
    outside = [row for row in rows if row["layer"] is None]
    for index, (name, colour) in enumerate(zip(names, colours, strict=True)):
        marker = {"symbol": _SYMBOLS[index % len(_SYMBOLS)], "size": 7, "color": colour}
        line = {"color": colour, "width": 2, "dash": DASHES[index // 4 % len(DASHES)]}
        shared = {"type": "scatter", "marker": marker, "line": line, "legendgroup": name, "cliponaxis": False}
        for part, mode in ((inside, "lines+markers"), (outside, "markers")):
            if part:
                data.append(shared | {
                    "mode": mode, "name": label(name), "x": [place(row["layer"]) for row in part],
                    "y": [_at(row[column], index) for row in part],
                    "showlegend": part is inside or not inside,
                    "hovertemplate": "%{y:.4g} in layer %{x}" if part is inside else "%{y:.4g} outside the layers",
                })  # fmt: skip
    drawn = layout(x="layer", y=y)
    drawn["xaxis"] |= _places(rows)
    drawn["yaxis"] |= {"rangemode": "tozero"}
    return {"data": data, "layout": drawn}


def field(
    cells: Sequence[Mapping[str, Any]], column: str, *, scale: Sequence[Sequence[Any]], low: float, high: float,
    form: str = ".2f",
) -> Plot:  # fmt: skip
    """Draw a value for every layer (across) and kind of tensor (down); blank where there is none.

    Args:
        cells: layer, kind and the value in `column`, in the order of the layers.
        column: name of it.
        scale: of colours.
        low: value of its first colour.
        high: value of its last colour.
        form: of a value, as d3 writes it.
    """
    known = [cell for cell in cells if cell[column] is not None]
    kinds = list(dict.fromkeys(cell["kind"] for cell in sorted(known, key=lambda cell: cell["rank"])))
    layers = list(dict.fromkeys(cell["layer"] for cell in known))
    of = {(cell["layer"], cell["kind"]): cell[column] for cell in known}
    trace = {
        "type": "heatmap", "x": [place(layer) for layer in layers], "y": [label(kind) for kind in kinds],
        "z": [[of.get((layer, kind)) for layer in layers] for kind in kinds], "colorscale": scale,
        "zmin": low, "zmax": high, "hoverongaps": False, "xgap": 1, "ygap": 1,
        "hovertemplate": f"%{{y}}, layer %{{x}}: %{{z:{form}}}<extra></extra>",
        "colorbar": {
            "thickness": 12, "outlinewidth": 0, "tickfont": {"size": 12, "color": "var(--ink)"},
            "tickformat": form,
        },
    }  # fmt: skip
    if len(layers) * len(kinds) <= 40:  # room enough to write the numbers
        trace |= {"texttemplate": f"%{{z:{form}}}", "textfont": {"size": 12}}
    drawn = layout(x="layer", y="")
    drawn["xaxis"] |= _places(known) | {"showgrid": False}
    drawn["yaxis"] |= {"autorange": "reversed", "showgrid": False, "type": "category"}
    drawn["margin"] |= {"t": 8}
    drawn["plot_bgcolor"] = "var(--panel)"  # where there is no tensor: not the colour of any value
    return {"data": [trace], "layout": drawn}


def _places(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Name about ten layers on the axis, and what is outside of them, so that no two names touch."""
    order = list(dict.fromkeys(place(row["layer"]) for row in rows))
    layers = [name for name in order if name != OUTSIDE]
    step = -(-len(layers) // 10)
    named = [name for i, name in enumerate(layers) if i % step == 0]
    if OUTSIDE in order:
        near = len(layers) // 8  # layers whose names would touch it
        named = [*(name for name in named if layers.index(name) < len(layers) - near), OUTSIDE]
    return {
        "type": "category", "categoryorder": "array", "categoryarray": order, "tickangle": 0,
        "tickmode": "array", "tickvals": named,
    }  # fmt: skip


def _at(values: Sequence[float] | None, index: int) -> float | None:
    return None if values is None else values[index]
