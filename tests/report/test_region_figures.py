"""Figures of the ground: the axis past the ends, gaps where nothing is finite, intervals in reading order."""

import json
import math

import polars as pl
import pytest

from heredity.report import region_figures as figures


def test_the_axis_unfolds_past_the_ends() -> None:
    assert figures.unfolded([-31, -1, 0, 0.5, 1, 2, 32]) == [-5, -1, 0, 0.5, 1, 2, 6]
    assert figures.unfolded(sorted([-7.5, -0.1, 0.2, 1.3, 9])) == sorted(
        figures.unfolded([-7.5, -0.1, 0.2, 1.3, 9])
    )


def test_what_is_not_finite_is_a_gap_that_json_can_hold() -> None:
    table = pl.DataFrame({"alpha": [0.0, 1.0, 32.0], "loss": [1.0, math.nan, math.inf], "data": ["x"] * 3})
    plot = figures.edge_curves(table, "data")
    assert plot["data"][0]["y"] == [1.0, None, None]
    json.dumps(plot, allow_nan=False)


def test_a_surface_is_laid_out_row_by_row() -> None:
    rows = [(x, y, "d", x + 10 * y) for y in (0.0, 1.0) for x in (0.0, 1.0, 2.0)]
    table = pl.DataFrame(rows, schema=["x", "y", "data", "loss"], orient="row")
    members = pl.DataFrame({
        "place": ["a", "b<i>"], "x": [0.0, 1.0], "y": [0.0, 0.5], "distance": [0.0, 2.0], "data": ["d", "d"],
        "loss": [0.0, 1.0], "corner": [True, False],
    })  # fmt: skip
    plot = figures.surface(table, members, "d")
    assert plot["data"][0]["z"] == [[0, 1, 2], [10, 11, 12]]
    assert [trace["name"] for trace in plot["data"]] == ["loss", "on the plane", "beside it"]
    assert plot["data"][2]["text"] == ["b&lt;i&gt;"]


def test_intervals_read_from_the_top() -> None:
    pairs = (("a", 1.0), ("b", 2.0))
    rows = [{"name": name, "value": value, "low": value - 1, "high": value + 2} for name, value in pairs]
    trace = figures.intervals(rows, x_title="x")["data"][0]
    assert trace["y"] == ["b", "a"]  # plotly starts at the bottom
    assert trace["error_x"]["array"] == pytest.approx([2, 2])
    assert trace["error_x"]["arrayminus"] == pytest.approx([1, 1])
