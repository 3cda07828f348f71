"""Rows between chance and ceiling are drawn as the table has them, in its order, nothing hidden behind another mark."""

import plotly.graph_objects as go
import polars as pl
import pytest

from heredity.report import figures, meaning_figures, share_figures


def rows(**changes: object) -> pl.DataFrame:
    return pl.DataFrame([
        {
            "row": row, "series": series, "value": value, "low": value - 0.05, "high": value + 0.1, "floor": 0.0,
            "ceiling": 0.5, **changes,
        }
        for row in ("base → lua", "<b>base</b> → bible")
        for series, value in (("best", 0.4), ("mutual", 0.2))
    ])  # fmt: skip


def traces(plot: figures.Plot) -> dict[str, figures.Plot]:
    return {trace["name"]: trace for trace in plot["data"] if "name" in trace}


def test_every_line_has_its_chance_value_and_ceiling() -> None:
    plot = share_figures.between(rows(), x="share, %")
    assert len(go.Figure(plot).data) == 5
    named = traces(plot)
    assert list(named) == ["floor", "ceiling", "best", "mutual"]
    assert named["best"]["x"] == pytest.approx([40, 40])
    assert named["best"]["error_x"]["array"] == pytest.approx([10, 10])
    assert named["best"]["error_x"]["arrayminus"] == pytest.approx([5, 5])
    assert len(set(named["ceiling"]["y"])) == 4  # a line for each row and series
    assert named["best"]["y"][0] > named["mutual"]["y"][0] > named["best"]["y"][1]
    low, high = plot["layout"]["xaxis"]["range"]
    assert low < 0 < 50 < high
    assert plot["layout"]["yaxis"]["ticktext"][1] == "&lt;b&gt;base&lt;/b&gt; → bible"


def test_what_is_not_known_is_not_drawn() -> None:
    table = rows(low=None, high=None).drop("ceiling").with_columns(
        floor=pl.when(pl.col("series") == "best").then("floor")
    )  # fmt: skip
    named = traces(share_figures.between(table, x="share, %"))
    assert "ceiling" not in named
    assert len(named["floor"]["x"]) == 2
    assert named["best"]["error_x"]["array"] == [0.0, 0.0]


def test_a_null_with_an_interval_is_drawn_below_its_value() -> None:
    table = rows(floor_low=-0.1, floor_high=0.2)
    plot = share_figures.between(table, x="r", percent=False, chance="strangers", below=0.09)
    named = traces(plot)
    assert named["best"]["x"] == [0.4, 0.4]
    assert named["strangers"]["error_x"]["array"] == pytest.approx([0.2] * 4)
    assert named["strangers"]["y"][0] == pytest.approx(named["best"]["y"][0] - 0.09)


def test_scores_are_shares_of_each_member_beside_the_null() -> None:
    scores = pl.DataFrame({
        "member": ["a", "a", "b"], "score": [0.52, 0.91, 1.0], "null_score": [-0.03, 0.01, None],
    })  # fmt: skip
    plot = meaning_figures.score_histogram(scores, {"a": "var(--member-0)"})
    assert len(go.Figure(plot).data) == 2  # b has no null, so no score to show
    null, own = plot["data"]
    assert sum(own["y"][:-1]) == pytest.approx(100)
    assert own["x"][0] == pytest.approx(0.5)
    assert null["x"][0] == pytest.approx(-0.05)


def test_a_curve_over_tau_shows_its_interval_and_false_discoveries() -> None:
    curve = pl.DataFrame({
        "tau": [0.3, 0.8], "persist": [0.7, 0.3], "persist_low": [0.6, 0.2], "persist_high": [0.8, 0.4],
        "floor": [0.1, 0.0], "ceiling": [0.9, 0.4], "fdr": [0.14, None], "fdr_high": [0.2, None],
    })  # fmt: skip
    plot = figures.tau_curve(curve, 0.8)
    assert go.Figure(plot)
    named = traces(plot)
    assert named["upper bound"]["y"] == pytest.approx([80, 40])
    assert named["false, at most"]["y"] == pytest.approx([20])
    assert named["false, at most"]["customdata"] == pytest.approx([14])
    plain = figures.tau_curve(curve.drop("persist_low", "persist_high", "fdr", "fdr_high"), 0.8)
    assert list(traces(plain)) == ["ceiling", "persists", "floor"]


@pytest.mark.parametrize(("floor", "cut"), [([1.0, 0.0], True), ([0.3, 0.3], False)])
def test_a_peak_of_the_floor_does_not_press_the_rest_flat(floor: list[float], cut: bool) -> None:
    parts = [
        {"kind": kind, "low": low, "high": low + 0.5, "share": share}
        for kind, shares in (("observed", [0.4, 0.2]), ("floor", floor))
        for low, share in zip((0.0, 0.5), shares, strict=True)
    ]
    plot = figures.r_histogram(pl.DataFrame(parts), 0.8)
    assert figures.cut_off(pl.DataFrame(parts)) is cut
    assert ("range" in plot["layout"]["yaxis"]) is cut
