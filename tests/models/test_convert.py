"""Pickled weights: converted once and only when allowed, tensors alone, whole or not at all."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from heredity.checkpoint import Checkpoint, allowing_pickles
from heredity.cli._main import run
from heredity.digests import states
from heredity.errors import CheckpointError
from pico import make_family


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path, monkeypatch):
    """A cache of its own for each test, however it is asked for."""
    for module in ("heredity.digests", "heredity.models.convert"):
        monkeypatch.setattr(f"{module}.cache_folder", lambda: tmp_path / "cache")


def allowed(path):
    with allowing_pickles():
        return Checkpoint.open(path)


def kept(tmp_path):
    folder = tmp_path / "cache" / "pickles"
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize(
    ("dtype", "zipped"),
    [
        (torch.float32, True), (torch.bfloat16, True), (torch.float16, True), (torch.float8_e4m3fn, True),
        (torch.float32, False), (torch.bfloat16, False),  # before torch 1.6: no zip archive, and no fp8
    ],
)  # fmt: skip
def test_values_are_those_of_the_pickle(tmp_path, dtype, zipped):
    rng = torch.Generator().manual_seed(0)
    state = {
        "w": torch.randn(5, 7, generator=rng).to(dtype),
        "turned": torch.randn(4, 6, generator=rng).to(dtype).T,
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 4),
        "mask": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }
    (tmp_path / "m").mkdir()
    torch.save(state, tmp_path / "m" / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (tmp_path / "m" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="only pickled weights"):
        Checkpoint.open(tmp_path / "m")
    assert kept(tmp_path) == []
    checkpoint = allowed(tmp_path / "m")
    assert sorted(checkpoint.tensors) == sorted(state)
    for name in ("w", "turned", "scalar", "empty", "parameter"):
        assert np.array_equal(checkpoint.read(name), state[name].detach().float().numpy()), name
    assert checkpoint.raw("mask").tolist() == [1, 0]
    assert (checkpoint.path, checkpoint.name) == (tmp_path / "m", "m")
    assert checkpoint.config == {"model_type": "llama"}
    with pytest.raises(CheckpointError, match="only pickled weights"):  # the cache is no leave to use it
        Checkpoint.open(tmp_path / "m")


def test_converted_once_until_the_file_changes(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    file = tmp_path / "m" / "pytorch_model.bin"
    torch.save({"w": torch.ones(3)}, file)
    first = allowed(tmp_path / "m")

    def forbidden(*args, **options):
        raise AssertionError("the pickle was opened again")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", forbidden)
        assert allowed(tmp_path / "m").files == first.files
    torch.save({"w": torch.zeros(3)}, file)
    assert allowed(tmp_path / "m").read("w").tolist() == [0, 0, 0]
    assert len(kept(tmp_path)) == 2


def test_shards(tmp_path):
    (tmp_path / "m").mkdir()
    torch.save({"a": torch.ones(2), "b": torch.zeros(3)}, tmp_path / "m" / "pytorch_model-00001-of-00002.bin")
    torch.save({"c": torch.full((4,), 2.0)}, tmp_path / "m" / "pytorch_model-00002-of-00002.bin")
    one, two = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    index = tmp_path / "m" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"c": two, "a": one, "b": one}}))
    checkpoint = allowed(tmp_path / "m")
    assert {n: checkpoint.read(n).tolist() for n in checkpoint.tensors} == {
        "a": [1, 1], "b": [0, 0, 0], "c": [2, 2, 2, 2],
    }  # fmt: skip
    assert len(checkpoint.files) == 2
    index.write_text(json.dumps({"weight_map": {"a": one, "c": one}}))
    with pytest.raises(CheckpointError, match=r"00001-of-00002.bin: lacks tensor c"):
        allowed(tmp_path / "m")
    index.write_text(json.dumps({"weight_map": {"a": "../secret.bin"}}))
    with pytest.raises(CheckpointError, match="points outside the folder"):
        allowed(tmp_path / "m")
    index.write_text(json.dumps({"weight_map": {"a": "gone.bin"}}))
    with pytest.raises(CheckpointError, match=r"gone.bin: the shard is missing"):
        allowed(tmp_path / "m")
    assert len(kept(tmp_path)) == 1


def test_shared_tensors(tmp_path):
    embedding = torch.randn(6, 4)
    state = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding, "first": embedding[:2]}
    for name, tied in (("tied", True), ("apart", False), ("silent", None)):
        (tmp_path / name).mkdir()
        torch.save(state, tmp_path / name / "pytorch_model.bin")
        config = {} if tied is None else {"tie_word_embeddings": tied}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        checkpoint = allowed(tmp_path / name)
        assert ("lm_head.weight" in checkpoint.tensors) == (tied is not True)
        for tensor in checkpoint.tensors:
            assert np.array_equal(checkpoint.read(tensor), state[tensor].numpy())
    (tmp_path / "tied" / "pytorch_model.bin").unlink()
    torch.save(state | {"lm_head.weight": embedding + 1}, tmp_path / "tied" / "pytorch_model.bin")
    assert "lm_head.weight" in allowed(tmp_path / "tied").tensors  # said to be tied, but another tensor


class Runs:
    """Unpickled by a call of its choice."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, how, capsys):
    (tmp_path / "m").mkdir()
    file, trace = tmp_path / "m" / "pytorch_model.bin", tmp_path / "owned"
    state = {"w": torch.ones(2), "x": Runs(trace)} if how == "torch" else {"x": Runs(trace)}
    if how == "torch":
        torch.save(state, file)
    else:
        file.write_bytes(pickle.dumps(state))
    assert run(["inspect", str(tmp_path / "m"), "--allow-pickle-weights"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "pytorch_model.bin: refused: the pickle asks for more than tensors" in said[0]
    assert not trace.exists()
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"w": 3}, "w is a int, not a tensor"),
        ({"w": {"x": torch.ones(2)}}, "w is a dict, not a tensor"),
        ([torch.ones(2)], "no table of tensors"),
        ({}, "no table of tensors"),
        ({"w": torch.ones(2).to_sparse()}, "torch.sparse_coo"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "complex64"),
        ({"w": torch.ones(1).expand(10**12)}, "larger than what the file stores"),
    ],
)
def test_what_is_no_weights_is_refused(tmp_path, state, match):
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=match):
        allowed(tmp_path)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("size", [0, 10, 400])
def test_a_truncated_file_is_refused(tmp_path, size):
    file = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: "):
        allowed(tmp_path)
    assert kept(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    import errno

    from heredity.errors import DiskFullError
    from heredity.models import convert

    torch.save({"w": torch.ones(5)}, tmp_path / "pytorch_model.bin")

    def full(tensors):
        yield np.zeros(4, np.uint8)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(convert, "_bytes", full)
    with pytest.raises(DiskFullError):
        allowed(tmp_path)
    assert kept(tmp_path) == []


def test_without_torch_the_extra_is_named(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    script = (
        "import sys; sys.modules['torch'] = None;"
        "from heredity.cli._main import run;"
        "sys.exit(run(['inspect', sys.argv[1], '--allow-pickle-weights']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "opening pickled weights needs the extra 'models'" in done.stderr


def test_a_tokenizer_beside_the_pickle_counts_as_input(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    assert [s.file for s in states(allowed(tmp_path))] == ["model.safetensors", "tokenizer.json"]


@pytest.fixture
def mixed(tmp_path):
    """A family of safetensors whose member b is pickled; and the same all in safetensors."""
    for root in ("plain", "mixed"):
        make_family(tmp_path / root / "models")
    folder = tmp_path / "mixed" / "models" / "b"
    whole = Checkpoint.open(folder)
    torch.save({n: torch.from_numpy(whole.read(n)) for n in whole.tensors}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for root in ("plain", "mixed"):
        recipe = '[merge]\nmethod = "linear"\nmodels = ["models/a", "models/b"]\n'
        (tmp_path / root / "recipe.toml").write_text(recipe)
    return tmp_path


def test_commands_open_pickles_only_with_the_flag(mixed, capsys):
    def commands(root):
        here = mixed / root
        folders = [str(here / "models" / m) for m in ("base", "a", "b", "c")]
        return [
            ["inspect", *folders],
            ["family", *folders, "--base", "base", "-o", str(here / "family.toml")],
            ["map", str(here / "family.toml"), "-o", str(here / "map"), "--permutations", "99", "-q"],
            ["plan", str(here / "recipe.toml")],
            ["merge", str(here / "recipe.toml"), str(here / "out"), "-q", "--hash-inputs"],
            ["verify", str(here / "out")],
        ]

    for command in commands("plain"):
        assert run(command) == 0, command
    for command in commands("mixed"):
        capsys.readouterr()
        assert run(command) == 1, command
        assert "--allow-pickle-weights" in capsys.readouterr().err
        more = ["--overwrite"] if command[0] == "map" else []
        assert run([*command, *more, "--allow-pickle-weights"]) == 0, command
    ours, theirs = (mixed / root / "out" / "model.safetensors" for root in ("mixed", "plain"))
    assert ours.read_bytes() == theirs.read_bytes()
    pages = [json.loads((mixed / root / "map" / "map.json").read_text()) for root in ("mixed", "plain")]
    assert pages[0] == pages[1]
