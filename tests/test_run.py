"""A run folder resumes with the same settings and refuses everything else."""

import json
import tomllib
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heredity.errors import ConfigError, StoreError
from heredity.run import Run
from heredity.tomlfile import to_toml

CONFIG = {"name": "x", "sae": {"k": 32}, "members": [{"name": "a"}, {"name": "b"}]}


def open_run(path: Path, **changes: object) -> Run:
    settings = {"command": "demo", "config": CONFIG, "seed": 0, **changes}
    return Run.open(path, **settings)  # type: ignore[arg-type]


def test_stages_survive_the_process(tmp_path: Path) -> None:
    run = open_run(tmp_path / "r")
    run.finish_stage("text", tokens=5)
    again = open_run(tmp_path / "r", resume=True)
    assert again.done("text")
    assert again.facts("text")["tokens"] == 5
    assert not again.done("train")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "not empty"),
        ({"resume": True, "seed": 1}, r"another seed \(0 before, 1 now\)"),
        (
            {"resume": True, "config": {**CONFIG, "sae": {"k": 16}}},
            r"another config \(sae\.k: 32 before, 16 now\)",
        ),
        ({"resume": True, "command": "map"}, "another command"),
    ],
)
def test_a_folder_in_use_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    open_run(tmp_path / "r")
    with pytest.raises(ConfigError, match=said) as raised:
        open_run(tmp_path / "r", **changes)
    assert raised.value.hint


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not a run folder"):
        open_run(tmp_path, resume=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_overwrite_forgets_stages_and_tables(tmp_path: Path) -> None:
    run = open_run(tmp_path / "r")
    run.write_table("edges", pl.DataFrame({"r": [1.0]}))
    run.metric(step=1)
    run.finish_stage("text")
    run.folder("saes").mkdir()
    (run.path / "notes.txt").write_text("the user's own")
    run = open_run(tmp_path / "r", overwrite=True)
    assert not (run.path / "saes").exists()
    assert (run.path / "notes.txt").exists()
    assert not run.done("text")
    assert not run.has_table("edges")
    with pytest.raises(StoreError, match=r"edges\.parquet: no such table"):
        run.table("edges")


def test_metrics_of_one_member_can_be_made_again(tmp_path: Path) -> None:
    run = open_run(tmp_path / "r")
    run.metric(member="a", step=1)
    run.metric(member="b", step=1)
    run.drop_metrics(member="a")
    assert (tmp_path / "r" / "metrics.jsonl").read_text() == '{"member": "b", "step": 1}\n'


plain = st.recursive(
    st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain, max_size=4))
def test_toml_reads_back(values: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(values)) == values


def test_overwrite_does_not_touch_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not a run folder"):
        open_run(tmp_path, overwrite=True)


def test_how_a_command_ended_is_recorded(tmp_path: Path) -> None:
    def ending(error: type[BaseException] | None) -> str:
        run = open_run(tmp_path / str(error))
        with run.recorded():
            if error:
                raise error
        return str(run.record()["status"])

    assert ending(None) == "done"
    for error, status in ((KeyboardInterrupt, "interrupted"), (ValueError, "failed")):
        with pytest.raises(error):
            ending(error)
        assert f'"status": "{status}"' in (tmp_path / str(error) / "run.json").read_text()


@pytest.mark.parametrize("damage", ["{", "[]", "{}", "stages", "folders"])
def test_a_damaged_record_is_refused(tmp_path: Path, damage: str) -> None:
    open_run(tmp_path / "r")
    record = tmp_path / "r" / "run.json"
    text = json.dumps(json.loads(record.read_text()) | {damage: 1}) if damage.isalpha() else damage
    record.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json: (not|cannot be read as) a run record"):
        open_run(tmp_path / "r", resume=True)
    assert record.read_text() == text


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    run = open_run(tmp_path / "r")
    run.write_table("edges", pl.DataFrame({"r": [1.0]})).write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"edges\.parquet: cannot be read"):
        run.table("edges")
