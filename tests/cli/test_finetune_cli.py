"""`heredity finetune`: a result as JSON, columns by name, texts alone for a language model, errors of one line."""

import json
from pathlib import Path

import polars as pl
import pytest

pytest.importorskip("torch")

from heredity.cli._main import run
from tiny_models import write_bert, write_lm, write_task

QUICK = ["--set", "learning_rate=0.01", "--set", "max_tokens=16", "--set", "epochs=1", "-q"]


def test_it_trains_and_says_what_came_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bert(tmp_path / "base")
    table = pl.DataFrame({"sentence": ["a good film", "a bad film"] * 20, "kind": ["up", "down"] * 20})
    table.write_parquet(tmp_path / "words.parquet")
    words = [
        "finetune",
        str(tmp_path / "base"),
        "--data",
        str(tmp_path / "words.parquet"),
        "-o",
        str(tmp_path / "out"),
    ]
    columns = ["--field", "text=sentence", "--field", "label=kind"]
    assert run([*words, *columns, "--limit", "16", *QUICK, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["schema"] == 1
    assert made["cost"]["examples"] == 16
    assert any("no test part" in note for note in made["notes"])
    record = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert record["labels"] == ["down", "up"]
    assert (
        run([*words, *columns, "--limit", "16", *QUICK, "--json"]) == 0
    )  # it is there: read, not made again
    assert json.loads(capsys.readouterr().out) == made
    assert run([*words, *columns, *QUICK]) == 2
    assert "other settings, data or seed" in capsys.readouterr().err


def test_texts_train_a_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lm(tmp_path / "lm")
    data = write_task(tmp_path, rows=20)
    words = [
        "finetune",
        str(tmp_path / "lm"),
        "--data",
        data,
        "-o",
        str(tmp_path / "out"),
        "--as",
        "lm",
        *QUICK,
    ]
    assert run(words) == 0
    assert "test_loss" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bert(tmp_path / "base")
    data, out = write_task(tmp_path, rows=20), ["-o", str(tmp_path / "out")]
    for words, code, what in (
        ([str(tmp_path / "base"), "--data", data, "--set", "epochz=2"], 2, "epochz"),
        ([str(tmp_path / "base"), "--data", str(tmp_path / "absent")], 1, "no .jsonl"),
        ([str(tmp_path / "absent"), "--data", data], 1, "no such file or folder"),
        (["archive:unknown-1.0.tar.gz#model", "--data", data], 2, "no sha256 is pinned"),
        ([str(tmp_path / "base"), "--data", data, "--device", "tpu9"], 2, "not a torch device"),
    ):
        assert run(["finetune", *words, *out, "-q"]) == code, words
        error = capsys.readouterr().err
        assert what in error
        assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
