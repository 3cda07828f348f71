"""The study of regions on a tiny encoder and on tiny language models: every table, resumption, the page, errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from heredity.cli._main import run as heredity  # noqa: E402
from heredity.errors import ConfigError  # noqa: E402
from heredity.run import Run, read_record  # noqa: E402
from heredity.studies.regions import config, summaries  # noqa: E402
from heredity.studies.regions.study import study  # noqa: E402
from tiny_models import write_bert, write_task  # noqa: E402

SETS = {"films": ("taste", 2), "plays": ("taste", 3), "cars": ("trade", 2), "boats": ("trade", 3)}
QUICK = {"learning_rate": 1e-2, "epochs": 1, "batch": 8, "max_tokens": 16}


def encoder_values(root: Path) -> dict[str, Any]:
    sets: list[dict[str, Any]] = [{"name": name, "family": family} for name, (family, _) in SETS.items()]
    sets[0]["control"] = "films_too"
    sets.append({"name": "films_too", "family": "taste", "control_only": True})
    tuned = QUICK | {"method": "bitfit"}
    return {
        "seeds": 2, "threads": 1, "permutations": 50,
        "encoder": {"model": str(root / "bert"), "layers": 1, "rows": 24, "tuning": QUICK, "sets": sets,
                    "probe_rows": [24, 8, 16]},
        "walks": {"pairs": 1, "steps": 3}, "region": {"samples": 2, "redraws": 2, "redraw_samples": 1, "draws": 50},
        "edges": {"pairs": 1, "edge": 4, "edge_steps": 1, "directions": 1, "radii": [0, 1, 4]},
        "centre": {"seeds": 2, "rows": 24, "few": tuned, "full": QUICK, "all_rows": QUICK, "full_sets": ["cars"]},
        "starts": {"sets": ["boats"], "rows": 24, "tuning": tuned, "search": {"proxy_rows": 16, "finalists": 3}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("regions")
    write_bert(root / "bert")
    for seed, (name, (_, classes)) in enumerate(SETS.items()):
        write_task(root, name, classes=classes, seed=seed, rows=36)
    write_task(root, "films_too", classes=2, seed=0, rows=36)
    return root


@pytest.fixture(scope="module")
def done(root: Path) -> Run:
    chosen = config.settings(encoder_values(root))
    run = Run.open(root / "run", command="study regions", config=config.plain(chosen), seed=0)
    study(run, chosen, root=root)
    return run


def test_every_question_has_its_table(done: Run) -> None:
    assert done.table("members").height == 8  # four sets, two seeds; the control is not among them
    assert set(done.table("clusters")["label"]) == {"data", "family"}
    kinds = done.table("kinship_kinds")["kind"].to_list()
    assert kinds == ["same set", "same texts, other labels", "same family, other texts", "other family"]
    beside = done.table("beside_paper")
    assert beside["level"].unique(maintain_order=True).to_list() == ["same set", "same family", "general"]
    assert beside["levels"].to_list() == [4] * 3 + [2] * 3 + [1] * 3
    assert beside["p_b"].is_between(0, 1).all()
    separation = done.table("separation")
    assert separation.filter((pl.col("by") == "general") & pl.col("p_value").is_not_null()).is_empty()
    assert (
        separation.filter((pl.col("by") == "data") & (pl.col("bad") == "Ex") & (pl.col("good") == "In"))[
            "p_value"
        ]
        .is_between(1 / 4, 1)
        .all()
    )  # one set of four
    assert set(done.table("interpolation_pairs")["kind"]) == {"same set", "same family", "other family"}
    assert done.table("edges").height > 0
    assert done.table("directions")["data"].n_unique() == 2  # one set for each family
    compute = dict(done.table("compute").select("stage", "count").iter_rows())
    assert compute["fine-tunes of members"] == 10
    texts = " ".join(done.table("findings")["text"])
    for words in ("Clusters of task vectors", "P_B(In′, Ex)", "Starting from the centre", "start on boats"):
        assert words in texts


def test_the_centre_leaves_out_the_set_itself_and_its_twin(done: Run) -> None:
    table = done.table("centre")
    few = table.filter(pl.col("regime") == "bitfit, 24 rows")
    assert few.height == 4 * 2 * 2
    gains = done.table("centre_sets").filter(pl.col("regime") == "bitfit, 24 rows")
    for row in gains.iter_rows(named=True):
        here = few.filter(pl.col("data") == row["data"])
        means = {
            start: here.filter(pl.col("start") == start)["accuracy"].mean() for start in ("base", "centre")
        }
        assert row["gain"] == pytest.approx(means["centre"] - means["base"], abs=1e-6)  # type: ignore[operator]
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert done.table("centre_sets")["regime"].n_unique() == 3


def test_counts_are_a_sign_test() -> None:
    rows = [
        ("r", name, "f", 0.5, 0.5 + g, g, g - 0.1, g + 0.1, 0.0, 1.0)
        for name, g in zip("abcd", (0.2, 0.2, -0.05, 0.0), strict=True)
    ]
    columns = [
        "regime",
        "data",
        "family",
        "base",
        "centre",
        "gain",
        "gain_low",
        "gain_high",
        "loss_saved",
        "nearness",
    ]
    found = summaries.count_sets(pl.DataFrame(rows, schema=columns, orient="row"), 0).row(0, named=True)
    assert (found["better"], found["worse"], found["surely_better"], found["not_worse"]) == (2, 1, 2, 3)
    assert found["p_value"] == pytest.approx(1.0)
    assert found["mean_gain"] == pytest.approx(0.0875)
    assert found["mean_gain_low"] < found["mean_gain"] < found["mean_gain_high"]


def test_cosines_of_sets_are_resampled_by_their_texts() -> None:
    sets = [f"s{n}" for n in range(8)]
    rows = [("same set", name, name, 0.5) for name in sets]
    rows += [("other family", a, b, 0.1 * (a == "s0")) for i, a in enumerate(sets) for b in sets[i + 1 :]]
    rows[-1] = ("same texts, other labels", "s6", "s7", 0.3)
    pairs = pl.DataFrame(rows, schema=["kind", "first", "second", "cosine"], orient="row")
    found = summaries.kinship_kinds(pairs, {"s6": "s7", "s7": "s6"}, 0)
    own, texts, other = found.to_dicts()
    assert (own["cosine"], own["low"], own["high"], own["pairs_of_sets"]) == pytest.approx((0.5, 0.5, 0.5, 8))
    assert (texts["cosine"], texts["low"], texts["high"]) == (0.3, None, None)  # one pair has no interval
    # one odd set moves all its pairs: single pairs would give 0.011 to 0.041
    assert other["cosine"] == pytest.approx(0.7 / 27)
    assert other["low"] == 0
    assert other["high"] > 0.05


def test_means_over_levels_are_resampled_as_levels() -> None:
    rows = [
        ("data", f"s{n}", f"s{n}", "In", "Ex", v, v, v, 0.0, v, v) for n, v in enumerate((0.5, 1.0, 1.0, 1.0))
    ]
    rows.append(("general", "general", "x", "In", "Ex", 0.9, 0.9, 0.9, 0.0, 0.8, 0.95))
    columns = ["by", "level", "data", "good", "bad", "p_b", "strict", "loose", "ties", "low", "high"]
    found = summaries.beside_paper(pl.DataFrame(rows, schema=columns, orient="row"), 0)
    ours, general = found.to_dicts()
    assert (ours["p_b"], ours["levels"], ours["lowest"]) == (0.875, 4, "s0 0.50")
    assert ours["low"] < 0.875 < ours["high"] == 1.0
    assert (general["low"], general["high"]) == (0.8, 0.95)


def test_curves_start_from_the_mean_of_the_ends() -> None:
    rows = [
        ("same set", a, "b", alpha, "x", loss)
        for a, bump in (("p", 0.2), ("q", 0.4))
        for alpha, loss in ((0.0, 1.0), (0.5, 2.0 + bump), (1.0, 3.0))
    ]
    places = pl.DataFrame(rows, schema=["kind", "a", "b", "alpha", "data", "loss"], orient="row")
    found = summaries.mean_curves(places, 0)
    assert found["loss"].to_list() == pytest.approx([-1.0, 0.3, 1.0])
    assert found["low"][1] == pytest.approx(0.2)
    assert found["high"][1] == pytest.approx(0.4)


def test_the_search_is_held_against_brute_force(done: Run) -> None:
    row = done.table("starts").row(0, named=True)
    every = done.table("starts_all")
    assert every.height == row["candidates"]
    assert row["oracle_accuracy"] == every["test_accuracy"].max()
    assert row["best"] == every.sort("validation_loss", "candidate")["candidate"][0]
    assert row["gap"] == pytest.approx(row["accuracy"] - row["best_accuracy"], abs=1e-6)
    assert row["chosen"] in every["candidate"].to_list()
    assert not any("boats" in name for name in every["candidate"].to_list())


def test_a_finished_study_is_not_done_again_and_a_killed_one_goes_on(root: Path, done: Run) -> None:
    tables = {p.name: p.read_bytes() for p in (done.path / "tables").iterdir() if p.name != "compute.parquet"}
    scores = (done.path / "ground" / "evaluations.jsonl").read_bytes()
    chosen = config.settings(encoder_values(root))
    again = Run.open(done.path, command="study regions", config=config.plain(chosen), seed=0, resume=True)
    record = read_record(done.path / "run.json")
    for stage in ("centre", "films-1", "controls"):
        del record["stages"][stage]
    (done.path / "ground" / "controls.safetensors").write_bytes(b"of another version")  # measured again
    again._state["stages"] = record["stages"]
    study(again, chosen, root=root)
    for name, before in tables.items():
        assert (done.path / "tables" / name).read_bytes() == before, name
    assert (done.path / "ground" / "evaluations.jsonl").read_bytes() == scores
    page = (done.path / "report.html").read_text()
    for words in ("Do models of one set lie together?", "Beside the paper", "Starting from the centre"):
        assert words in page


def test_language_models_stand_in(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corpora = []
    for domain, letters in (("base", "abcde"), ("x", "abcfg"), ("y", "hijkl"), ("z", "mnoab")):
        folder = tmp_path / domain
        folder.mkdir()
        for n in range(12):
            words = ["".join(rng.choice(list(letters), size=4)) for _ in range(60)]
            (folder / f"{n}.txt").write_text(" ".join(words))
        corpora.append({"domain": domain, "source": f"text:{domain}/*.txt"})
    lm = {
        "model": {"model_type": "mistral", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
                  "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
                  "tie_word_embeddings": False},
        "vocabulary": 265, "context": 16, "base_domains": ["base"], "base_tokens": 512, "tokens": 256,
        "evaluation_tokens": 64, "pretraining": {"learning_rate": 1e-2, "batch_blocks": 4},
        "finetuning": {"learning_rate": 1e-2, "batch_blocks": 4}, "kinds": {"x": "k", "y": "k", "z": "l"},
        "corpora": corpora, "archives": {},
    }  # fmt: skip
    values = {k: v for k, v in encoder_values(tmp_path).items() if k not in ("encoder", "starts")}
    values |= {
        "lm": lm,
        "centre": {"seeds": 2, "tokens": [64], "lm": {"learning_rate": 1e-2, "batch_blocks": 2}},
    }
    chosen = config.settings(values)
    run = Run.open(tmp_path / "run", command="study regions", config=config.plain(chosen), seed=0)
    study(run, chosen, root=tmp_path)
    assert run.table("centre_sets").height == 3
    assert run.table("beside_paper").height == 9
    assert "starts" not in run.record()["stages"]
    assert (run.path / "report.html").exists()


def test_settings_are_checked(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = encoder_values(root)
    for wrong, what in (
        ({"lm": None, "encoder": None}, "encoder"),
        ({"seedz": 3}, "seedz"),
        ({"starts": {"sets": ["absent"]}}, "absent"),
    ):
        with pytest.raises(ConfigError, match=what):
            config.settings(values | wrong)
    assert config.settings(values, ["encoder.rows=12"]).encoder.rows == 12  # type: ignore[union-attr]
    for name in config.PRESETS:
        assert len(config.settings(config.preset(name)).groups) >= 6
    small = config.settings(config.preset("small"))
    assert len(small.groups) >= 12
    assert len(set(small.groups.values())) >= 4
    assert heredity(["study", "regions", "-o", str(tmp_path / "x")]) == 2
    assert "--data FOLDER" in capsys.readouterr().err
    assert heredity(["study", "regions", "--print-config", "--preset", "embedded"]) == 0
    assert 'folio = "prose"' in capsys.readouterr().out
    bad = json.loads(json.dumps(values)) | {"centre": values["centre"] | {"full_sets": ["nowhere"]}}
    with pytest.raises(ConfigError, match="nowhere"):
        config.settings(bad)
