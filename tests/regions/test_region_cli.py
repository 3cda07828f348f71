"""`heredity path`, `plane` and `region` over tiny families: tables that add up, pages, resumption, errors."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from heredity.cli._main import run  # noqa: E402
from heredity.corpora.documents import Document  # noqa: E402
from heredity.corpora.labelled import read_task  # noqa: E402
from heredity.corpora.tokens import write_stream  # noqa: E402
from heredity.family import Family, Member  # noqa: E402
from heredity.models.finetune import finetune  # noqa: E402
from heredity.models.load import threads  # noqa: E402
from heredity.models.tuning import FineTuning  # noqa: E402
from heredity.run import Run, read_record  # noqa: E402
from tiny_models import write_bert, write_lm, write_task  # noqa: E402

SETS = ("films", "tints")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of data with two fine-tunes each."""
    root = tmp_path_factory.mktemp("family")
    write_bert(root / "base")
    members = [Member(name="base", path="base")]
    config = FineTuning(learning_rate=1e-2, epochs=2, batch=8, max_tokens=16, freeze_embeddings=True)
    with threads(1):
        for place, name in enumerate(SETS):
            task = read_task(write_task(root, name, classes=2 + place, seed=place, rows=40))
            for seed in range(2):
                finetune(root / "base", task, root / f"{name}-{seed}", config, seed=seed)
                labels: dict[str, Any] = {"data": name, "seed": seed}
                members.append(
                    Member(name=f"{name}-{seed}", path=f"{name}-{seed}", parents=("base",), labels=labels)
                )
    Family("tiny", members, root).save(root / "family.toml")
    return root


def data(family: Path) -> list[str]:
    return [word for name in SETS for word in ("--data", str(family / name))] + ["--max-tokens", "16"]


def table(out: Path, name: str) -> pl.DataFrame:
    return Run(out, read_record(out / "run.json")).table(name)


def test_path_walks_from_end_to_end_and_resumes(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["path", "films-0", "tints-1", "--family", str(family / "family.toml"), *data(family), "-o"]
    asked = ["--steps", "3", "--extrapolate", "4", "--edge-steps", "2", "--move", "attention", "--json", "-q"]
    assert run([*words, str(tmp_path / "a"), *asked]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["schema"] == 1
    assert len(made["barriers"]) == 2 * 3  # whole and attention; two sets and their mean
    path = table(tmp_path / "a", "path")
    assert path["moved"].unique(maintain_order=True).to_list() == ["all", "attention"]
    whole = path.filter((pl.col("moved") == "all") & (pl.col("data") == "films"))
    assert whole["alpha"].to_list() == [-3, -1, 0, 0.5, 1, 2, 4]
    alone = path.filter((pl.col("moved") == "attention") & (pl.col("data") == "films"))
    at = {row["alpha"]: row["loss"] for row in whole.iter_rows(named=True)}
    only = {row["alpha"]: row["loss"] for row in alone.iter_rows(named=True)}
    assert only[0.0] == at[0.0]
    assert only[1.0] != at[1.0]
    row = next(b for b in made["barriers"] if b["data"] == "films" and b["moved"] == "all")
    assert row["barrier"] == pytest.approx(max(0.0, at[0.5] - (at[0.0] + at[1.0]) / 2))
    assert row["gain"] == pytest.approx(min(at[0.0], at[1.0]) - at[0.5])
    assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    page = (tmp_path / "a" / "report.html").read_text()
    assert "From one model to the other" in page
    assert "http" not in page.split("plotly-gzip")[0].replace("http-equiv", "")
    before = (tmp_path / "a" / "ground" / "evaluations.jsonl").read_bytes()
    assert run([*words, str(tmp_path / "a"), *asked]) == 2  # the folder is not empty
    assert run([*words, str(tmp_path / "a"), *asked, "--resume"]) == 0
    assert (tmp_path / "a" / "ground" / "evaluations.jsonl").read_bytes() == before
    assert table(tmp_path / "a", "path").equals(path)


def test_plane_draws_all_members(family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plane"
    words = ["plane", "base", "films-0", "tints-0", "--family", str(family / "family.toml"), *data(family)]
    assert run([*words, "-o", str(out), "--steps", "3", "-q"]) == 0
    members = table(out, "plane_members")
    assert set(members["place"]) == {"base", *(f"{name}-{seed}" for name in SETS for seed in range(2))}
    corners = members.filter("corner")
    assert corners["distance"].max() < 1e-5
    assert members.filter(~pl.col("corner"))["distance"].min() > 0.01
    assert table(out, "plane").height >= 9 * 2
    assert (out / "report.html").exists()
    assert "lowest loss of the grid" in capsys.readouterr().out


def test_region_compares_inside_with_outside(family: Path, tmp_path: Path) -> None:
    out = tmp_path / "region"
    words = ["region", str(family / "family.toml"), "--by", "data", *data(family), "-o", str(out), "-q"]
    small = {"redraws": 3, "redraw_samples": 2, "pairs": 1, "edge": 4, "edge_steps": 2, "directions": 1}
    settings = [w for k, v in small.items() for w in ("--set", f"{k}={v}")] + ["--set", "radii=[0, 1, 4]"]
    assert run([*words, *settings]) == 0
    found = table(out, "separation")
    assert found["level"].unique(maintain_order=True).to_list() == ["general", *SETS]
    places = table(out, "places")
    for row in found.iter_rows(named=True):
        if row["data"] == "mean":
            continue
        here = places.filter((pl.col("level") == row["level"]) & (pl.col("data") == row["data"]))
        good, bad = (here.filter(pl.col("role") == row[side])["loss"].to_list() for side in ("good", "bad"))
        wins = np.mean([(g < b) + (g == b) / 2 for g in good for b in bad])
        assert row["p_b"] == pytest.approx(wins)
        assert 0 <= row["low"] <= row["high"] <= 1
    assert places.filter((pl.col("level") == "films") & (pl.col("role") == "Ex"))["place"].to_list() == [
        "tints-0", "tints-1",
    ]  # fmt: skip
    assert places.filter(pl.col("level") == "films")["data"].unique().to_list() == ["films"]
    edges = table(out, "edges")
    assert edges["kind"].unique(maintain_order=True).to_list() == ["same", "different"]
    directions = table(out, "directions")
    start = directions.filter((pl.col("radius") == 0) & (pl.col("data") == "films"))["loss"]
    assert start.n_unique() == 1
    assert (out / "report.html").exists()


def test_a_language_models_path_is_measured_on_text(tmp_path: Path) -> None:
    write_lm(tmp_path / "a", seed=0)
    write_lm(tmp_path / "b", seed=1)
    documents = [
        Document(key=f"{domain}/{n}", domain=domain, text=f"the {colour} film was very {word}")
        for domain, word in (("x", "good"), ("y", "bad"))
        for n, colour in enumerate(("red", "green", "blue"))
    ]
    stream = tmp_path / "stream"
    write_stream(documents, tmp_path / "a" / "tokenizer.json", stream, context=6, max_tokens_per_domain=None)
    words = ["path", str(tmp_path / "a"), str(tmp_path / "b"), "--text", str(stream), "--steps", "3", "-q"]
    assert run([*words, "-o", str(tmp_path / "out")]) == 0
    path = table(tmp_path / "out", "path")
    assert path["data"].unique(maintain_order=True).to_list() == ["x", "y"]
    assert path["loss"].is_finite().all()
    barriers = table(tmp_path / "out", "barriers")
    assert not math.isnan(barriers["barrier_low"][0])


def test_what_cannot_be_measured_is_refused(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = str(family / "family.toml"), ["-o", str(tmp_path / "x")]
    assert run(["path", "films-0", "tints-0", "--family", file, *out]) == 2
    assert "give labelled texts" in capsys.readouterr().err
    assert run(["path", "films-0", "films-0", "--family", file, *data(family), *out]) == 2
    assert run(["path", "films-0", "absent", "--family", file, *data(family), *out]) == 2
    assert run(["path", "films-0", "tints-0", "--family", file, *data(family), *out, "--move", "all"]) == 2
    assert not (tmp_path / "x").exists()
    assert run(["region", file, "--by", "colour", *data(family), *out]) == 2
    assert "labels: data, seed" in capsys.readouterr().err
    assert run(["region", file, *data(family), *out, "--set", "sampels=3"]) == 2
    assert "sampels" in capsys.readouterr().err
    words = ["path", "films-0", "tints-0", "--family", file, *out]
    for more, what in (
        ([*data(family), *data(family)[:2]], "two sets are called films"),
        ([*data(family), "--dtype", "float17"], "float17"),
        (["--text", str(family / "nowhere")], "no such file"),
        (["--data", str(family / "nowhere")], "no .jsonl"),
    ):
        assert run([*words, *more]) in (1, 2)
        assert what in capsys.readouterr().err
    assert not (tmp_path / "x").exists()  # all of that is said before anything is written
    for more, what in ((["--move", "layers>=7"], "no such tensor"), (["--extrapolate", "nan"], "α = nan")):
        assert run([*words, *data(family), *more, "--overwrite"]) == 2
        assert what in capsys.readouterr().err
    labels = [*data(family), "--own-heads", "-o", str(tmp_path / "y"), "-q"]
    assert run(["path", "films-0", "tints-0", "--family", file, *labels]) == 3
    assert "labels, not those of" in capsys.readouterr().err
