"""`heredity start`: candidates, recall, halving, the written start, its evidence, its cost, and resumption."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from heredity.cli._main import run  # noqa: E402
from heredity.corpora.labelled import read_task  # noqa: E402
from heredity.errors import ConfigError, StoreError  # noqa: E402
from heredity.family import Family, Member  # noqa: E402
from heredity.models.batches import encode_task  # noqa: E402
from heredity.models.classifier import load_encoder  # noqa: E402
from heredity.models.finetune import finetune  # noqa: E402
from heredity.models.load import threads, tokenizer  # noqa: E402
from heredity.models.tuning import FineTuning  # noqa: E402
from heredity.regions.candidates import candidates, kin_weights, usable  # noqa: E402
from heredity.regions.evidence import paired  # noqa: E402
from heredity.regions.ground import Ground  # noqa: E402
from heredity.regions.start import StartSettings, at_budget, find_start  # noqa: E402
from heredity.run import Run, read_record  # noqa: E402
from tiny_models import write_bert, write_lm, write_task  # noqa: E402

TUNING = FineTuning(learning_rate=1e-2, epochs=4, batch=8, max_tokens=16)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two data sets with two fine-tunes each, and a task that is none of them."""
    root = tmp_path_factory.mktemp("start")
    write_bert(root / "base")
    members = [Member(name="base", path="base")]
    with threads(1):
        for place, name in enumerate(("films", "tints")):
            task = read_task(write_task(root, name, classes=2, seed=place, rows=40))
            for seed in range(2):
                path = f"{name}-{seed}"
                finetune(
                    root / "base",
                    task,
                    root / path,
                    FineTuning(learning_rate=1e-2, batch=8, max_tokens=16),
                    seed=seed,
                )
                labels: dict[str, Any] = {"data": name}
                members.append(Member(name=path, path=path, parents=("base",), labels=labels))
    Family("tiny", members, root).save(root / "family.toml")
    write_task(root, "next", classes=3, seed=9, rows=80)
    return root


@pytest.fixture(scope="module")
def ground(root: Path) -> Ground:
    return Ground.open(Family.load(root / "family.toml"), kind="encoder")


def names(found: list[Any]) -> list[str]:
    return [candidate.place.name for candidate in found]


def test_candidates_are_the_base_the_members_and_their_means(root: Path, ground: Ground) -> None:
    family = Family.load(root / "family.toml")
    found = candidates(ground, ground.members, own=("films-0", "films-1"))
    assert names(found)[:4] == ["base", "centroid of all", "kin-weighted mean", "centroid without its own"]
    assert names(found)[-4:] == ["films-0", "films-1", "tints-0", "tints-1"]
    without = next(c.place.point for c in found if c.kind == "leave-one-out")
    assert without.members == ("tints-0", "tints-1")
    assert kin_weights(ground, ground.members).sum() == pytest.approx(1)
    assert usable(family, ["films"]) == ["tints-0", "tints-1"]
    assert usable(family, ["films-0"]) == ["films-1", "tints-0", "tints-1"]
    with pytest.raises(ConfigError, match="no member and no label"):
        usable(family, ["cars"])
    with pytest.raises(ConfigError, match="1 members to start from"):
        candidates(ground, ["films-0"])
    with pytest.raises(ConfigError, match="0 members to start from"):
        usable(family, ["films", "tints"])


def test_a_share_of_the_budget_takes_epochs_first_then_rows(root: Path) -> None:
    data = encode_task(read_task(str(root / "next")), tokenizer(root / "base"), max_tokens=16)
    rows = len(data.train)
    seen = {
        share: at_budget(data, TUNING, share, seed=0, dtype="float32").rows_seen
        for share in (1, 0.5, 0.25, 0.125)
    }
    assert seen == {1: 4 * rows, 0.5: 2 * rows, 0.25: rows, 0.125: rows // 2}
    half = at_budget(data, TUNING, 0.125, seed=0, dtype="float32").encoded
    assert set(half.task.train.texts) <= set(data.task.train.texts)
    assert len(half.task.train) == len(half.train)


def test_the_search_is_cheaper_than_trying_all_and_close_to_the_best(root: Path, ground: Ground) -> None:
    words = tokenizer(root / "base")
    data = encode_task(read_task(str(root / "next")), words, max_tokens=16)
    found = candidates(ground, ground.members)
    settings = StartSettings(proxy_rows=40, finalists=4)
    with threads(1):
        start = find_start(ground, found, data, TUNING, settings, seed=0, tokenizer=words)
        full = at_budget(data, TUNING, 1.0, seed=0, dtype="float32")
        every = {c.place.name: ground.score(c.place, [full])[0] for c in found}
    assert [len(rung.names) for rung in start.rungs] == [4, 2, 1]
    assert start.rungs[-1].rows == TUNING.epochs * len(data.train)
    assert {"base", "centroid of all"} <= set(start.rungs[0].names)
    spent = sum(len(rung.names) * rung.rows for rung in start.rungs)
    assert start.cost["tuning"] == 3 * spent
    assert start.cost["of brute force"] < 0.6
    best = max(score[1].accuracy for score in every.values())
    assert every[start.chosen.place.name][1].accuracy >= best - 0.1


def test_the_command_writes_the_start_and_its_evidence(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    quick = {"learning_rate": 0.01, "batch": 8, "proxy_rows": 40}
    words = [
        "start",
        str(root / "family.toml"),
        "--task",
        str(root / "next"),
        "-o",
        str(out),
        "--max-tokens",
        "16",
    ]
    words += [w for k, v in quick.items() for w in ("--set", f"{k}={v}")] + [
        "--budget",
        "288",
        "--json",
        "-q",
    ]
    assert run(words) == 0
    made = json.loads(capsys.readouterr().out)
    record = json.loads((out / "start" / "start.json").read_text())
    chosen = next(row for row in made["evidence"] if row["chosen"])
    assert record["place"] == chosen["candidate"]
    assert chosen["gap"] == 0
    encoder = load_encoder(out / "start")
    weights = {name: p.detach().numpy() for name, p in encoder.named_parameters()}
    own = Ground.open(Family.load(root / "family.toml"), kind="encoder")
    name = "encoder.layer.0.output.dense.weight"
    mix = sum(
        c * own.checkpoints[m].read(name).astype(np.float64)
        for m, c in zip(record["members"], record["coefficients"], strict=True)
    )
    np.testing.assert_allclose(weights[name], mix, atol=1e-6)
    table = Run(out, read_record(out / "run.json")).table("evidence")
    tried = table.filter(table["rung"] >= 0)
    assert (tried["gap_low"] <= tried["gap"]).all()
    assert (tried["gap"] <= tried["gap_high"]).all()
    assert (out / "report.html").exists()
    assert (out / "start" / "tokenizer.json").exists()
    before = (out / "ground" / "evaluations.jsonl").read_bytes()
    assert run([*words, "--resume"]) == 0
    assert (out / "ground" / "evaluations.jsonl").read_bytes() == before
    assert json.loads(capsys.readouterr().out)["evidence"] == made["evidence"]
    assert run([*words, "--overwrite", "--budget", "10"]) == 2
    assert "less than one pass" in capsys.readouterr().err


def test_members_of_the_task_itself_are_named_and_can_be_forbidden(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "start",
        str(root / "family.toml"),
        "--task",
        str(root / "films"),
        "--max-tokens",
        "16",
        "--method",
        "bitfit",
    ]
    words += ["--set", "proxy_rows=32", "--set", "rungs=1", "--set", "finalists=2", "--set", "epochs=1", "-q"]
    assert run([*words, "-o", str(tmp_path / "a")]) == 0
    warnings = Run(tmp_path / "a", read_record(tmp_path / "a" / "run.json")).table("warnings")["text"]
    assert any("2 members were fine-tuned on films itself" in text for text in warnings)
    assert run([*words, "-o", str(tmp_path / "b"), "--leave-out", "films", "--json"]) == 0
    evidence = json.loads(capsys.readouterr().out.splitlines()[-1])["evidence"]
    assert not any(row["candidate"].startswith("films") for row in evidence)


def test_language_models_start_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = []
    for seed, name in enumerate(("base", "a", "b")):
        write_lm(tmp_path / name, seed=seed)
        members.append(Member(name=name, path=name, parents=("base",) if seed else ()))
    Family("lms", members, tmp_path).save(tmp_path / "family.toml")
    task = write_task(tmp_path, rows=60)
    words = [
        "start",
        str(tmp_path / "family.toml"),
        "--task",
        task,
        "--as",
        "lm",
        "--max-tokens",
        "16",
        "--json",
        "-q",
    ]
    words += ["--set", "learning_rate=0.01", "--set", "batch=8", "-o", str(tmp_path / "out")]
    assert run(words) == 0
    made = json.loads(capsys.readouterr().out)
    assert Path(made["start"], "model.safetensors").exists()


def test_what_cannot_start_is_refused_before_a_folder_is_made(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_task(root, "couples", pairs=True, rows=40)
    out, file = tmp_path / "out", str(root / "family.toml")
    task = ["--task", str(root / "next"), "--max-tokens", "16", "-q"]
    for words, what in (
        ([*task, "--leave-out", "cars"], "no member and no label"),
        ([*task, "--leave-out", "films", "--leave-out", "tints"], "0 members to start from"),
        ([*task, "--budget", "10"], "less than one pass"),
        ([*task, "--dtype", "float17"], "float17"),
        ([*task, "--set", "method=full"], "--set method"),
        (["--task", str(root / "couples"), "--as", "lm"], "no head for pairs"),
    ):
        assert run(["start", file, "-o", str(out), *words]) == 2
        assert what in capsys.readouterr().err
        assert not out.exists()
    assert run(["start", file, "-o", str(out), *task, "--as", "lm"]) == 2
    assert "is not a causal language model" in capsys.readouterr().err


def test_a_start_needs_rows_and_a_finite_loss(root: Path, ground: Ground) -> None:
    words = tokenizer(root / "base")
    data = encode_task(read_task(str(root / "next")), words, max_tokens=16)
    found = candidates(ground, ground.members)
    wild = FineTuning(learning_rate=1e30, epochs=1, batch=8, max_tokens=16)
    settings = StartSettings(proxy_rows=40, finalists=2, rungs=1)
    with pytest.raises(StoreError, match="kept a finite loss"):
        find_start(ground, found, data, wild, settings, seed=0, tokenizer=words)
    few = encode_task(read_task(str(root / "next"), limit=5), words, max_tokens=16)
    with pytest.raises(ConfigError, match="5 training rows are too few"):
        find_start(ground, found, few, TUNING, settings, seed=0, tokenizer=words)


def test_paired_intervals_hold_the_difference() -> None:
    rng = np.random.default_rng(0)
    first = (rng.random(400) < 0.8).astype(float)
    second = np.where(rng.random(400) < 0.9, first, 1 - first)
    gap, low, high = paired(first, second, 1000, seed=0, name="x")
    assert gap == pytest.approx(first.mean() - second.mean())
    assert low < gap < high < low + 0.15
    assert paired(first, first, 100, seed=0, name="x") == (0.0, 0.0, 0.0)
