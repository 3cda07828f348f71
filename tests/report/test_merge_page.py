"""The merge's page: sentences by hand, many models, names that look like HTML, and a real browser."""

from pathlib import Path
from typing import Any

import chromium
import pytest

from heredity.report import merge_figures
from heredity.report.merge_page import Merged, Row, draw_merge, findings

EVIL = "<img src=x onerror=alert(1)>"
EMPTY: Row = dict.fromkeys(
    (
        "t",
        "cosine",
        "sign_conflicts",
        "kept",
        "explained",
        "lerp",
        "averaged",
        "shares",
        "moved",
        "kept_each",
        "cosines",
    )
)


def row(count: int, **values: Any) -> Row:
    return EMPTY | {"tensors": 1, "elements": 100, "lerp": 0.0, "averaged": 0.0} | {
        "moved": [0.1] * (count - 1), "shares": [1.0 / count] * count,
    } | values  # fmt: skip


def merged(inputs: tuple[str, ...] = ("base", "lua", "bible"), layers: int = 20, **more: Any) -> Merged:
    count = len(inputs)
    known = {
        "t": 0.4,
        "cosine": 0.2,
        "sign_conflicts": 0.1,
        "kept": 0.5,
        "explained": 0.8,
        "kept_each": [0.5, 0.4],
    }
    by_layer = [row(count, **known, layer=i) for i in range(layers)] + [row(count, layer=None)]
    cells = [row(count, **known, layer=i, kind=k) for i in range(layers) for k in ("mlp", "norm")]
    cells += [row(count, layer=None, kind="head")]
    tensor = {
        "tensor": f"{EVIL}.weight", "elements": 100, "t": 0.4, "cosine": 0.2, "sign_conflicts": 0.1,
        "kept": [0.5, 0.4], "explained": 0.8, "sampled": 0.1, "lerp": None, "averaged": None,
    }  # fmt: skip
    values = {
        "name": "both", "method": "ties", "inputs": inputs, "deltas": True, "elementwise": True,
        "whole": row(count, **known) | {"tensors": 12, "elements": 1200}, "layers": by_layer,
        "kinds": [row(count, **known, kind=k) for k in ("mlp", "norm", "head")], "cells": cells,
        "tensors": [tensor], "record": {
            "donor": "base", "seed": 0, "version": "0", "notes": [EVIL], "recipe": "[merge]\n" + "x" * 300,
        },
        "files": [{"role": "lua", "name": "model.safetensors", "bytes": 10, "digest": None}],
    }  # fmt: skip
    return Merged(**(values | more))


def test_findings_are_sentences_of_what_is_known() -> None:
    assert findings(merged()) == [
        "both was merged by ties from lua and bible, as differences from base: 12 tensors, 1,200 weights.",
        "Task vectors have a cosine of 0.200.",
        "The result lies at t = 0.400 between lua (t = 0) and bible (t = 1).",
        "Of the changes, 50.0\u00a0% of lua and 40.0\u00a0% of bible are used.",
        "In 10.0\u00a0% of the weights the models' changes that are used have opposite signs.",
        "The nearest mixture of whole task vectors explains 80.0\u00a0% of the change; "
        "the rest is done within tensors.",
    ]
    plain = merged(inputs=("a", "b", "c"), deltas=False, whole=row(3) | {"cosines": [0.1, 0.2, -0.3]})
    assert findings(plain)[1:] == ["The weights of two models have cosines of \u22120.300 to 0.200."]
    one = [row(2, layer=i, t=0.1 * i) for i in range(3)]
    fallen = merged(
        inputs=("a", "b"), deltas=False, layers=3, whole=row(2, t=0.1, lerp=0.5, averaged=0.5),
        tensors=[{"lerp": True, "averaged": None}, {"lerp": None, "averaged": True}],
    )  # fmt: skip
    fallen = Merged(**{f: getattr(fallen, f) for f in fallen.__struct_fields__} | {"layers": one})
    assert findings(fallen)[1:] == [
        "In 1 of 2 tensors the models are so near to each other that SLERP is the straight line.",
        "The result lies at t = 0.100 between a (t = 0) and b (t = 1), from 0.000 in layer 0 to 0.200 in layer 2.",
        "1 tensor without statistics is a plain mean.",
    ]


def test_figures_keep_layers_in_order_and_what_is_outside_apart() -> None:
    drawn = merge_figures.lines(merged(layers=3).layers, "moved", ["lua", "bible"], ["red", "blue"], "y")
    inside, outside = drawn["data"][:2]
    assert inside["x"] == ["0", "1", "2"]
    assert outside["x"] == [merge_figures.OUTSIDE]
    assert [trace["showlegend"] for trace in drawn["data"]] == [True, False, True, False]
    assert drawn["layout"]["xaxis"]["categoryarray"] == ["0", "1", "2", "outside"]
    cells = [
        {"layer": 1, "kind": "mlp", "rank": 1, "t": 0.5}, {"layer": 0, "kind": "norm", "rank": 0, "t": 0.1},
        {"layer": None, "kind": "head", "rank": 2, "t": None},
    ]  # fmt: skip
    field = merge_figures.field(cells, "t", scale=merge_figures.AMOUNT, low=0, high=1)["data"][0]
    assert field["y"] == ["norm", "mlp"]
    assert field["z"] == [[None, 0.1], [0.5, None]]
    ticks = merge_figures.lines(merged(layers=80).layers, "moved", ["a"], ["red"], "y")["layout"]["xaxis"][
        "tickvals"
    ]
    assert len(ticks) <= 11
    assert ticks[-1] == "outside"


def test_a_page_of_fifty_models_draws_their_range() -> None:
    names = tuple(f"m{i}" for i in range(50))
    page = draw_merge(merged(inputs=names, deltas=False, elementwise=False))
    assert '"name":"greatest"' in page
    assert "50 models" in page
    assert '"name":"m7"' not in page


def test_names_are_never_markup() -> None:
    page = draw_merge(merged(inputs=("base", EVIL, "b")))
    assert EVIL not in page


@pytest.mark.browser
@pytest.mark.skipif(chromium.found() is None, reason="no chromium or chrome on the PATH")
def test_the_page_fits_and_is_quiet(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(draw_merge(merged(inputs=("base", EVIL, "b"), layers=14)), encoding="utf-8")
    with chromium.tab() as tab:
        for width, dark in ((400, False), (1600, True)):
            tab.open(file, width=width, dark=dark)
            assert tab.value("document.documentElement.scrollWidth") <= width
            plots = tab.value("document.querySelectorAll('.plot').length")
            assert plots == tab.value("document.querySelectorAll('.plot .main-svg:first-of-type').length") > 5
        assert tab.messages == []
        assert [one for one in tab.requests if not one.startswith(("file:", "data:"))] == []
