"""The map's page: pure figures by hand, names that look like HTML, and a real browser."""

import json

import chromium
import polars as pl
import pytest

from heredity.report import map_figures, write_report
from heredity.run import Run

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def map_run(tmp_path_factory):
    """A made-up map of a base and six models, one of them with a hostile name."""
    names = ["law-0", "law-1", "code-0", "code-1", EVIL, "soup"]
    labels = {n: {"data": n.split("-")[0]} for n in names[:4]}
    path = tmp_path_factory.mktemp("map") / "run"
    config = {"name": "made up", "group": "layer", "permutations": 99, "include_head": False}
    run = Run.open(path, command="map", config=config, seed=0)
    everyone = ["base", *names]
    run.write_table("members", pl.DataFrame({
        "member": everyone, "relation": ["base"] + ["finetune"] * 5 + ["merge"],
        "parents": [[]] + [["base"]] * 5 + [["law-0", "code-0"]], "dtype": ["F32"] * 7, "elements": [10] * 7,
        "labels": [json.dumps(labels.get(n, {})) for n in everyone],
        "delta_norm": [None] + [1.0] * 6, "delta_norm_rel": [None] + [0.01] * 6,
        "unchanged_share": [None] + [0.5] * 6,
    }))  # fmt: skip
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    run.write_table("pairs", pl.concat([
        pl.DataFrame({
            "group": [group] * len(pairs), "first": [a for a, _ in pairs], "second": [b for _, b in pairs],
            "cosine": [0.5 if a.split("-")[0] == b.split("-")[0] else -0.1 for a, b in pairs],
            "pearson": [0.1] * len(pairs), "l2": [1.0] * len(pairs), "relative": [0.1] * len(pairs),
            "sign_agreement": [0.5] * len(pairs),
        })
        for group in ("all", "layer 0", "outside")
    ]))  # fmt: skip
    points = [
        {"picture": picture, "model": n, "x": float(i), "y": float(i % 3)}
        for picture, of in (("directions", names), ("places", everyone)) for i, n in enumerate(of)
    ]  # fmt: skip
    run.write_table("layout", pl.DataFrame(points))
    trust = {"stress": 0.41, "trustworthiness": 0.87, "neighbours": 2, "explained_x": 0.6, "explained_y": 0.2}
    run.write_table("layout_trust", pl.DataFrame([{"picture": p} | trust for p in ("directions", "places")]))
    run.write_table("dendrogram", pl.DataFrame({
        "left": [0, 2, 4, 6, 8], "right": [1, 3, 5, 7, 9], "height": [0.5, 0.6, 0.9, 1.1, 1.3],
        "count": [2, 2, 2, 4, 6],
    }))  # fmt: skip
    run.write_table("ancestry", pl.DataFrame({
        "member": everyone, "kind": ["base"] + ["finetune"] * 5 + ["merge"],
        "parents": [[]] + [["base"]] * 5 + [["law-0", "code-0"]],
        "coefficients": [[]] * 6 + [[0.17, 0.83]], "before": [[]] * 6 + [[0.3, 0.7]],
        "precision": [[]] * 6 + [[0.13, 0.13]],
        "residual": [None] + [1.0] * 5 + [0.3], "uniform": [True] * 7, "score": [None] * 6 + [0.3],
        "null": [None] + [0.6] * 6, "declared": [[]] + [["base"]] * 5 + [["law-0"]],
        "agrees": [None] + [True] * 5 + [False],
    }))  # fmt: skip
    run.write_table("kinship", pl.DataFrame({"variant": ["pearson"], "kinship": [0.12], "pairs": [15]}))
    run.write_table("warnings", pl.DataFrame({"kind": ["copy"], "text": [f"{EVIL} is odd"]}))
    run.write_table("findings", pl.DataFrame({"order": [0], "text": ["Six models."]}))
    run.write_table("scores", pl.DataFrame([
        {"label": "data", "method": "spectral", "k": 2, "score": "accuracy", "value": 1.0, "null_mean": 0.6,
         "null_p95": 0.75, "p_value": 0.01, "low": 0.9, "high": 1.0, "n": 4}
    ]))  # fmt: skip
    return run


def test_leaves_stand_as_the_tree_joins_them():
    tree = pl.DataFrame({"left": [1, 0], "right": [2, 3], "height": [0.5, 1.0], "count": [2, 3]})
    assert map_figures.leaf_order(tree, ["a", "b", "c"]) == ["a", "b", "c"]
    drawn = map_figures.dendrogram(tree, ["a", "b", "c"], {})
    lines = drawn["data"][0]
    assert lines["x"] == [0.0, 0.5, 0.5, 0.0, None, 0.0, 1.0, 1.0, 0.5, None]
    assert lines["y"] == [1.0, 1.0, 2.0, 2.0, None, 0.0, 0.0, 1.5, 1.5, None]
    assert drawn["layout"]["xaxis"]["range"] == [0, pytest.approx(1.04)]


def test_a_picture_says_how_far_to_trust_it():
    points = pl.DataFrame({"model": ["a", "b", "base"], "x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, 0.5]})
    trust = {"stress": 0.314, "trustworthiness": None, "explained_x": 0.5, "explained_y": 0.25}
    drawn = map_figures.picture(
        points, trust, {"a": "x", "b": "y"}, {"x": "var(--member-1)", "y": "var(--member-2)"}, "base"
    )
    assert [trace["name"] for trace in drawn["data"]] == ["x", "y", "base"]
    assert drawn["layout"]["annotations"][0]["text"] == "stress 0.31"
    assert drawn["data"][0]["marker"]["symbol"] != drawn["data"][1]["marker"]["symbol"]


def test_colours_are_white_at_zero_on_both_sides():
    drawn = map_figures.heatmap([[None, -0.2], [-0.2, None]], ["a", "b"])
    assert drawn["data"][0]["zmin"] == -0.2
    assert drawn["data"][0]["zmax"] == 0.2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.mlp.up_proj.weight", "0.mlp.up_proj"),
        ("transformer.h.1.ln_1.bias", "1.ln_1.bias"),
        ("layer 3", "layer 3"),
    ],
)
def test_names_of_tensors_are_short_on_an_axis(name, expected):
    assert map_figures.short(name) == expected


def test_the_page_escapes_names_and_holds_every_part(map_run):
    text = write_report(map_run).read_text()
    assert EVIL not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    for part in ("map", "scores", "similarity", "parting", "ancestry", "members", "method", "warnings"):
        assert f'<section id="{part}"' in text
    assert "0.170 ± 0.130; 0.30 before rounding" in text
    assert "says law-0" in text


def test_an_unfinished_map_says_so(tmp_path):
    run = Run.open(tmp_path / "run", command="map", config={"name": "new"}, seed=0)
    assert "Not made yet: the tables of the map." in write_report(run).read_text()


@pytest.mark.browser
@pytest.mark.skipif(chromium.found() is None, reason="no chromium or chrome on the PATH")
def test_the_page_fits_is_quiet_and_the_model_can_be_chosen(map_run):
    page = write_report(map_run)
    with chromium.tab() as tab:
        for width, dark in ((400, True), (1280, False)):
            tab.open(page, width=width, dark=dark)
            assert tab.value("document.documentElement.scrollWidth") <= width
            assert tab.value("document.querySelectorAll('.plot .main-svg:first-of-type').length") == 6
        plot = "document.querySelector('[data-plot=parting-data]')"
        first = tab.value(f"JSON.stringify({plot}.data[0].z)")
        button = f"{plot}.layout.updatemenus[0].buttons[3].args[0]"
        tab.value(f"window.Plotly.restyle({plot}, {button}).then(() => true)")
        assert tab.value(f"JSON.stringify({plot}.data[0].z)") != first
        assert tab.messages == []
        assert [request for request in tab.requests if not request.startswith(("file:", "data:"))] == []
