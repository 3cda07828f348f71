"""Figures are valid plotly, carry the tables' numbers, and place the family's flow where it can be read."""

from typing import Any

import plotly.graph_objects as go
import polars as pl
import pytest

from heredity.report import figures
from heredity.report.palette import member_colours
from heredity.report.view import View
from heredity.run import Run

COLOURS = member_colours(["base", "lua", "bible", "lua-bible"])


def drawn(run: Run) -> dict[str, dict[str, Any]]:
    edge = {"parent": "base", "child": "lua"}
    sweep = run.table("sweep")
    return {
        "training": figures.training_curves(run.table("training"), COLOURS),
        "sweep": figures.sweep(sweep, "accuracy", COLOURS, {"lua": 0.2}, {"lua": 0.41}),
        "l0": figures.l0_curve(run.table("sae_curve"), "fvu", "FVU", COLOURS),
        "sankey": figures.sankey(run.table("flows"), COLOURS, View(run).parents),
        "histogram": figures.r_histogram(run.table("r_histogram").filter(**edge), 0.8),
        "distance": figures.by_distance(
            run.table("edges").head(3).with_columns(distance=pl.Series([9.1, 8.0, 4.5])), COLOURS
        ),
        "tau": figures.tau_curve(run.table("tau_curve").filter(**edge), 0.8),
    }


def test_plotly_knows_every_property(run: Run) -> None:
    for name, plot in drawn(run).items():
        figure = go.Figure(plot)  # raises on a property or a value that plotly does not have
        assert len(figure.data) == len(plot["data"]) > 0, name


def test_a_sweep_has_its_points_ends_and_choice(run: Run) -> None:
    plot = drawn(run)["sweep"]
    lua = next(trace for trace in plot["data"] if trace["name"] == "lua: merge")
    assert lua["y"] == pytest.approx(100 * run.table("sweep").filter(domain="lua")["accuracy"].to_numpy())
    assert [t["y"] for t in plot["data"] if t["name"] == "lua: base"] == [[20.0, 20.0]]
    assert [shape["x0"] for shape in plot["layout"]["shapes"]] == [0.5]


def test_a_sankey_goes_from_left_to_right_without_overlap(run: Run) -> None:
    trace = drawn(run)["sankey"]["data"][0]
    names, x, y = trace["node"]["label"], trace["node"]["x"], trace["node"]["y"]
    for source, target in zip(trace["link"]["source"], trace["link"]["target"], strict=True):
        assert x[source] < x[target], (names[source], names[target])
    assert len(set(zip(x, y, strict=True))) == len(names)
    assert all(0 < value < 1 for value in (*x, *y))
    assert sum(trace["link"]["value"]) == pytest.approx(run.table("flows")["count"].sum())


def test_names_from_tables_are_not_read_as_markup() -> None:
    name = '<a href="x">&amp;</a>'
    row = {"source": name, "target": "b", "kind": "persists", "share": 0.5, "count": 3.0}
    plot = figures.sankey(pl.DataFrame([row]), {}, {name: [], "b": [name]})
    assert plot["data"][0]["node"]["label"][0] == '&lt;a href="x"&gt;&amp;amp;&lt;/a&gt;'


def test_an_l0_curve_is_the_mean_over_seeds() -> None:
    rows = [
        {"member": "a", "variant": "topk", "k": 8, "seed": s, "l0": 8.0, "fvu": v}
        for s, v in ((0, 0.1), (1, 0.3))
    ]
    trace = figures.l0_curve(pl.DataFrame(rows), "fvu", "FVU", {})["data"][0]
    assert (trace["x"], trace["y"]) == ([8.0], pytest.approx([0.2]))
