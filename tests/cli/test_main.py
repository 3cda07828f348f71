"""Errors become one line, one hint and the right exit code; a traceback only when asked."""

import subprocess
import sys
from pathlib import Path

import pytest


def heredity(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "heredity", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["demo", "--preset", "huge"], 2, "huge"),
        (["demo", "--sed", "1"], 2, "--sed"),
        (["remo"], 2, "remo"),
        (["demo", "--set", "sae.kk=1"], 2, "unknown field 'kk' - at '$.sae'"),
        (["demo", "--set", "sae.k=1.5"], 2, "$.sae.k"),
        (["demo", "--config", "missing.toml"], 2, "missing.toml: cannot be read"),
        (["demo", "--resume", "--overwrite"], 2, "exclude each other"),
        (
            ["demo", "--init", "parent", "--set", "sae.init=random"],
            2,
            "--init parent, and --set sae.init=random",
        ),
        (["demo", "--set", "base.model.model_type=mistrel"], 2, "no model of model_type 'mistrel'"),
        (
            ["demo", "--preset", "smoke", "--set", "base.model.num_attention_heads=3"],
            2,
            "no model of model_type 'mistral'",
        ),
        (
            ["report", "nowhere"],
            2,
            "nowhere/run.json: cannot be read as a run record (No such file or directory)",
        ),
    ],
)
def test_bad_usage_is_one_line_and_a_hint(arguments: list[str], code: int, said: str, tmp_path: Path) -> None:
    done = heredity(*arguments)
    assert done.returncode == code
    first, *rest = done.stderr.strip().splitlines()
    assert first.startswith("error: ")
    assert said in first
    assert [line[:6] for line in rest] == ["hint: "]
    assert done.stdout == ""


def test_a_traceback_only_when_asked() -> None:
    done = heredity("demo", "--config", "missing.toml", HEREDITY_DEBUG="1")
    assert "Traceback" in done.stderr


def test_an_unknown_field_of_a_study_file_is_named_with_its_place(tmp_path: Path) -> None:
    printed = heredity("demo", "--preset", "smoke", "--print-config")
    assert printed.returncode == 0, printed.stderr
    file = tmp_path / "study.toml"
    file.write_text(printed.stdout.replace("[lineage]", "[lineage]\ntaus = 1", 1))
    done = heredity("demo", "--config", str(file), "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "unknown field 'taus'" in done.stderr
    assert "$.lineage" in done.stderr
    assert not (tmp_path / "out").exists()
