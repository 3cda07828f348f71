"""Tasks are read from files of several layouts; what is missing is refused or stated."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from heredity.corpora.labelled import Fields, read_task
from heredity.errors import ConfigError, CorpusError
from tiny_models import write_task


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(labels: list[object]) -> list[dict[str, object]]:
    return [{"text": f"text {n}", "label": label} for n, label in enumerate(labels)]


def test_layouts_give_the_same_task(tmp_path: Path) -> None:
    ref = write_task(tmp_path / "flat")
    task = read_task(ref)
    assert (task.name, task.labels, len(task.test)) == ("films", ("0", "1"), 30)
    assert len(task.train) + len(task.validation) == 60
    folder = tmp_path / "films"
    for part in ("train", "test"):
        lines = (tmp_path / "flat" / f"films.{part}.jsonl").read_text()
        folder.mkdir(exist_ok=True)
        (folder / f"{part}.jsonl").write_text(lines)
        table = pl.DataFrame([json.loads(line) for line in lines.splitlines()])
        (tmp_path / "parquet" / "films").mkdir(parents=True, exist_ok=True)
        table.write_parquet(tmp_path / "parquet" / "films" / f"{part}-00000-of-00001.parquet")
    for other in (
        f"{ref}.train.jsonl",
        str(folder),
        str(folder / "train.jsonl"),
        str(tmp_path / "parquet" / "films"),
    ):
        assert read_task(other).digest == task.digest


def test_held_out_rows_are_stated_and_keyed(tmp_path: Path) -> None:
    path = write(tmp_path / "one.jsonl", rows([0, 1] * 20))
    task = read_task(path)
    assert [len(p) for p in (task.train, task.validation, task.test)] == [32, 4, 4]
    assert len(task.notes) == 2
    assert read_task(path).digest == task.digest != read_task(path, seed=1).digest
    few = read_task(path, limit=10)
    assert len(few.train) == 10
    assert set(few.train.texts) <= set(task.train.texts)


def test_labels_keep_their_order_and_kind(tmp_path: Path) -> None:
    assert read_task(write(tmp_path / "n.jsonl", rows([10, 2, 9] * 8))).labels == ("2", "9", "10")
    assert read_task(write(tmp_path / "b.jsonl", rows([True, False] * 9))).labels == ("false", "true")
    columns = Fields(text="sentence", label="kind")
    path = write(tmp_path / "f.jsonl", [{"sentence": "x", "kind": k} for k in "abab" * 5])
    task = read_task(path, fields=columns)
    assert task.labels == ("a", "b")
    assert np.array_equal(np.unique(task.train.labels), [0, 1])


def test_bad_data_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x.train.jsonl", rows([0, 1] * 10))
    write(tmp_path / "x.test.jsonl", [{"text": "no label"}])
    with pytest.raises(CorpusError, match=r"x\.test\.jsonl:1: no label"):
        read_task(tmp_path / "x")
    write(tmp_path / "y.train.jsonl", rows([0, 1] * 10))
    write(tmp_path / "y.test.jsonl", rows([2]))
    with pytest.raises(CorpusError, match="label '2' is not among"):
        read_task(tmp_path / "y")
    with pytest.raises(ConfigError, match=r"one class only \('0'\)"):
        read_task(write(tmp_path / "z.jsonl", rows([0] * 20)))
    with pytest.raises(CorpusError, match="some labels are text"):
        read_task(write(tmp_path / "m.jsonl", rows([0, "a"] * 9)))
    with pytest.raises(CorpusError, match="some rows have 'text_pair'"):
        read_task(write(tmp_path / "p.jsonl", [{**rows([0])[0], "text_pair": "b"}, *rows([1] * 9)]))
    with pytest.raises(CorpusError, match="no text in field 'text'"):
        read_task(write(tmp_path / "t.jsonl", [{"sentence": "a", "label": 0}]))
    with pytest.raises(ConfigError, match=r"holds .* sets"):
        read_task(tmp_path)
    with pytest.raises(CorpusError, match=r"no \.jsonl"):
        read_task(tmp_path / "absent")


def test_a_class_that_the_test_part_lacks_is_stated(tmp_path: Path) -> None:
    write(tmp_path / "x.train.jsonl", rows([0, 1, 2] * 10))
    write(tmp_path / "x.test.jsonl", rows([0, 1] * 3))
    assert any(
        "1 of 3 classes do not occur in the test part, first '2'" in n
        for n in read_task(tmp_path / "x").notes
    )
