"""A merge as a process: the same bytes for any hash seed and on Ray; a disk that is really full."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from merge_pico import family

from heredity.checkpoint import Checkpoint
from heredity.errors import CheckpointError
from heredity.merging import Recipe
from heredity.merging.resolve import resolve

RECIPE = """
[merge]
method = "dare_ties"
base = "base"
family = "family.toml"
labels = { task = "x" }
tokenizer = "union"
density = [{ filter = "mlp", value = 0.4 }, { filter = "attn", value = 0.7 }, { value = 0.9 }]
weight = [0.5, 0.3, 0.4]
chat_template = "auto"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write models with vocabularies of their own, and a recipe that uses much of what a recipe can say."""
    family(tmp_path, models=3, dtype="BF16")
    words = ["the", "cat", "sat", "on", "a", "mat"]
    for i, name in enumerate(("base", "a", "b", "c")):
        vocabulary = {f"{words[(n * (i + 1)) % 6]}{n if n > i else ''}": n for n in range(40)}
        table = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": []}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(table))
        (tmp_path / name / "chat_template.jinja").write_text(f"{{{{ {name} }}}}")
    entries = "".join(f'[[member]]\nname = "{n}"\npath = "{n}"\nlabels = {{ task = "x" }}\n' for n in "abc")
    base = '[[member]]\nname = "base"\npath = "base"\n'
    (tmp_path / "family.toml").write_text(f'[family]\nname = "f"\n{base}{entries}')
    (tmp_path / "r.toml").write_text(RECIPE)
    (tmp_path / "plain.toml").write_text('[merge]\nmethod = "slerp"\nt = 0.3\nmodels = ["a", "b"]')
    return tmp_path


def merging(root: Path, recipe: str, out: Path, *options: str, **environment: str) -> None:
    """Run `heredity merge` in a process of its own, with a cache of its own."""
    command = [sys.executable, "-m", "heredity", "merge", str(root / recipe), str(out), "-q", *options]
    variables = {**os.environ, "HEREDITY_CACHE": str(out.parent / "cache"), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_any_hash_seed_gives_the_same_bytes(root: Path) -> None:
    found = []
    for seed in ("1", "4242"):
        out = root / seed / "out"
        merging(root, "r.toml", out, "--shard-gb", "1e-5", PYTHONHASHSEED=seed)
        found.append(contents(out))
    assert len(found[0]) > 8
    assert found[0] == found[1]


@pytest.mark.ray
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_ray_gives_the_same_bytes(root: Path) -> None:
    merging(root, "r.toml", root / "x" / "out", "--shard-gb", "1e-5")
    merging(root, "r.toml", root / "y" / "out", "--shard-gb", "1e-5", "--ray", "local", "-j", "2")
    assert contents(root / "x" / "out") == contents(root / "y" / "out")


# a disk that says it has room, as one with a quota does, or one that others write to as well
COMMAND = """
import shutil, sys
from heredity.cli._main import run
real = shutil.disk_usage
if sys.argv[1] == "lies":
    shutil.disk_usage = lambda path: real(path)._replace(free=10**12)
sys.exit(run(sys.argv[2:]))
"""
SCRIPT = """
set -u
mount -t tmpfs -o size="$SIZE" none "$DISK"
"$PYTHON" "$ROOT/command.py" "$SAYS" merge "$ROOT/plain.toml" "$DISK/out" -q --shard-gb 8e-6 2> "$ROOT/errors"
echo "$?" > "$ROOT/code"
cp -a "$DISK/out" "$ROOT/left"
mount -o remount,size=4m "$DISK"
"$PYTHON" "$ROOT/command.py" honest merge "$ROOT/plain.toml" "$DISK/out" -q --shard-gb 8e-6 --resume
echo "$?" > "$ROOT/resumed"
cp -a "$DISK/out" "$ROOT/done"
"""


def _may_mount() -> bool:
    """Say whether a process may mount a file system that only it and its children see."""
    if shutil.which("unshare") is None:
        return False
    trial = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("says", "pages", "shards"), [("lies", 7, 1), ("honest", 12, 2)])
def test_a_disk_that_is_really_full(says: str, pages: int, shards: int, root: Path) -> None:
    """Fill a small disk while a shard is written, and after the last shard; then give it more room."""
    if not _may_mount():
        pytest.skip("no right to mount a small disk (unshare -rm)")
    before = {name: contents(root / name) for name in "ab"}
    resolve(Recipe.load(root / "plain.toml")).save(root / "whole" / "out", shard_bytes=8000)
    (root / "disk").mkdir()
    (root / "command.py").write_text(COMMAND)
    variables = {
        **os.environ, "SIZE": str(4096 * pages), "DISK": str(root / "disk"), "ROOT": str(root), "SAYS": says,
        "PYTHON": sys.executable, "HEREDITY_CACHE": str(root / "cache"),
    }  # fmt: skip
    subprocess.run(["unshare", "-rm", "sh", "-c", SCRIPT], env=variables, check=True, timeout=300)
    errors = (root / "errors").read_text().splitlines()
    assert (root / "code").read_text() == "1\n"
    assert len(errors) == 2, errors
    assert errors[0].startswith("error: ")
    assert "the disk is full" in errors[0]
    assert "finished parts are kept" in errors[1]
    assert not (root / "left" / "config.json").exists()
    with pytest.raises(CheckpointError, match="was not written to its end"):
        Checkpoint.open(root / "left")
    assert not list((root / "left").glob(".*.tmp"))
    finished = {name: data for name, data in contents(root / "left").items() if name.endswith(".safetensors")}
    assert len(finished) == shards
    whole = contents(root / "whole" / "out")
    assert finished.items() <= whole.items()
    assert (root / "resumed").read_text() == "0\n"
    assert contents(root / "done") == whole
    assert {name: contents(root / name) for name in "ab"} == before
