"""A merge of adapters written as an adapter: exact, cut to a rank with its error, refused where it is none."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merge_pico import GPT2, LLAMA, family, gpt2_shapes, llama_shapes, read, weights
from numpy import ndarray

from heredity import merging
from heredity.adapter import AdaptedCheckpoint
from heredity.checkpoint import Checkpoint
from heredity.cli._main import run
from heredity.errors import CheckpointError, ConfigError, DiskFullError, MismatchError
from heredity.merging import Method, Recipe, merge
from heredity.merging.resolve import resolve
from heredity.merging.verify import read_lock, verify
from heredity.writer import write_checkpoint
from pico import write_adapter

Q, UP, EMBED = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.embed_tokens"
SHAPES = {Q: (16, 16), UP: (24, 16), EMBED: (40, 16)}
TARGETS = {"x": (Q, UP), "y": (UP, EMBED), "z": (Q, UP)}
OPTIONS: dict[str, dict[str, Any]] = {
    "x": {"rank": 2, "alpha": 0.5},
    "y": {"rank": 3, "alpha": 0.2, "use_rslora": True},
    "z": {"rank": 2, "alpha": 0.3, "rank_pattern": {"up_proj": 4}, "alpha_pattern": {"up_proj": 0.1}},
}
WEIGHTS = {"x": 0.7, "y": -0.4, "z": 1.2}
RECIPE = """
[merge]
method = "task_arithmetic"
base = "base"
models = ["x", "y", "z"]
weight = [0.7, -0.4, 1.2]
lambda = 0.5
output = "adapter"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    family(tmp_path, models=1, dtype="BF16")
    for seed, name in enumerate(TARGETS):
        deltas(tmp_path, name, seed)
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


def deltas(root: Path, name: str, seed: int) -> dict[str, ndarray]:
    """Write an adapter; return its dense difference in fp64."""
    targets = {module: SHAPES[module] for module in TARGETS[name]}
    return write_adapter(
        root / name, targets, seed=seed, base_model_name_or_path=str(root / "base"), task_type="CAUSAL_LM",
        **OPTIONS[name],
    )  # fmt: skip


def expected(root: Path, scale: float = 0.5) -> dict[str, ndarray]:
    total: dict[str, ndarray] = {}
    for seed, name in enumerate(TARGETS):
        for tensor, delta in deltas(root, name, seed).items():
            total[tensor] = total.get(tensor, 0) + scale * WEIGHTS[name] * delta
    return total


def product(adapter: AdaptedCheckpoint, tensor: str) -> ndarray:
    delta = adapter.deltas[tensor]
    return delta.scale * delta.left.astype(np.float64) @ delta.right.astype(np.float64)


def test_an_exact_adapter_is_the_merged_difference(root: Path) -> None:
    whole = expected(root)
    out = resolve(Recipe.load(root / "r.toml")).save(root / "out", hash_inputs=True)
    adapter = Checkpoint.open(out)
    assert isinstance(adapter, AdaptedCheckpoint)
    assert set(adapter.deltas) == set(whole)
    ranks = {f"{Q}.weight": 4, f"{UP}.weight": 9, f"{EMBED}.weight": 3}
    for tensor, delta in whole.items():
        assert adapter.deltas[tensor].rank == ranks[tensor]
        np.testing.assert_allclose(product(adapter, tensor), delta, rtol=0, atol=3e-7 * np.abs(delta).max())
    base = read(Checkpoint.open(root / "base"))
    for tensor, value in read(adapter).items():
        np.testing.assert_allclose(value, base[tensor] + whole.get(tensor, 0), rtol=1e-5, atol=1e-6)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(
        ["embed_tokens", Q, UP]
    )  # one layer of three each: by their names
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == str(root / "base")
    assert sorted({config["r"], *config["rank_pattern"].values()}) == [3, 4, 9]
    assert config["rank_pattern"] == config["alpha_pattern"]
    lock = read_lock(out)
    assert lock["adapter"]["relative_error"] == 0.0
    assert lock["tensors"][f"{UP}.weight"]["coefficients"] == pytest.approx([0.25, 0.35, -0.2, 0.6])
    card = (out / "README.md").read_text()
    assert 'base_model: ["base"]' in card
    assert 'base_model_relation: "adapter"' in card
    assert 'library_name: "peft"' in card
    verdict = verify(out, tensors=50)
    assert len(verdict.tensors) == 3
    assert sorted(verdict.inputs)[-2:] == ["z/adapter_model.safetensors", "z/model.safetensors"]
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_cut_adapter_is_the_nearest_of_its_rank_and_says_how_far(rank: int, root: Path) -> None:
    whole = expected(root)
    out = resolve(Recipe.load(root / "r.toml", {"rank": rank})).save(root / "out")
    adapter, lock = Checkpoint.open(out), read_lock(out)
    assert isinstance(adapter, AdaptedCheckpoint)
    lost = length = 0.0
    for tensor, delta in whole.items():
        singular = np.linalg.svd(delta, compute_uv=False)
        tail, total = np.linalg.norm(singular[rank:]), np.linalg.norm(singular)
        assert adapter.deltas[tensor].rank <= rank
        distance = np.linalg.norm(product(adapter, tensor) - delta)
        assert distance == pytest.approx(tail, rel=1e-4, abs=1e-6 * total)
        assert lock["tensors"][tensor]["relative_error"] == pytest.approx(tail / total, rel=1e-4, abs=1e-6)
        lost, length = lost + tail**2, length + total**2
    stated = lock["adapter"]["relative_error"]
    assert stated == pytest.approx(np.sqrt(lost / length), rel=1e-4, abs=1e-6)
    assert f"{stated:.2g}" in (out / "README.md").read_text()
    verify(out, tensors=50)


def test_the_error_counts_what_the_format_rounds(root: Path) -> None:
    whole = expected(root)
    out = resolve(Recipe.load(root / "r.toml", {"dtype": "bfloat16"})).save(root / "out")
    adapter, lock = Checkpoint.open(out), read_lock(out)
    assert isinstance(adapter, AdaptedCheckpoint)
    for tensor, delta in whole.items():
        distance = np.linalg.norm(product(adapter, tensor) - delta) / np.linalg.norm(delta)
        assert 1e-4 < distance < 1e-2
        assert lock["tensors"][tensor]["relative_error"] == pytest.approx(distance, rel=1e-3)


def test_a_rank_above_what_the_shape_allows_is_reduced(tmp_path: Path) -> None:
    family(tmp_path, models=0)
    for seed, name in enumerate("xy"):
        write_adapter(
            tmp_path / name, {Q: (16, 16)}, rank=12, seed=seed, base_model_name_or_path=str(tmp_path / "base")
        )
    out = merge(merging.Linear(), [tmp_path / "x", tmp_path / "y"]).save(tmp_path / "out", as_adapter=True)
    assert Checkpoint.open(out).deltas[f"{Q}.weight"].rank == 16  # type: ignore[attr-defined]
    assert read_lock(out)["adapter"]["relative_error"] < 1e-6


METHODS: dict[str, tuple[Method, bool]] = {
    "linear": (merging.Linear(weight=(0.2, 0.3, 0.5)), False),
    "centroid": (merging.Centroid(), False),
    "model_stock": (merging.ModelStock(), True),
    "multislerp": (merging.MultiSlerp(weight=(1.0, 2.0, 3.0)), True),
}


@pytest.mark.parametrize("case", METHODS)
def test_other_methods_of_the_span_agree_with_their_whole_model(case: str, root: Path) -> None:
    method, based = METHODS[case]
    prepared = merge(method, [root / n for n in "xyz"], root / "base" if based else None)
    adapter = Checkpoint.open(prepared.save(root / "out", as_adapter=True))
    model = read(Checkpoint.open(prepared.save(root / "whole", dtype="F32")))
    for tensor, value in read(adapter).items():
        np.testing.assert_allclose(value, model[tensor], rtol=1e-5, atol=2e-6, err_msg=tensor)


def test_algebra_and_chains_of_adapters(root: Path) -> None:
    text = """
[merge]
expression = "base + 2 * (left - base) - 0.5 * (z - base)"
models = ["base", "z"]
output = "adapter"
[merge.left]
method = "linear"
models = ["x", "y"]
"""
    (root / "r.toml").write_text(text)
    dense = {name: deltas(root, name, seed) for seed, name in enumerate(TARGETS)}
    adapter = Checkpoint.open(resolve(Recipe.load(root / "r.toml")).save(root / "out"))
    assert isinstance(adapter, AdaptedCheckpoint)
    for tensor in adapter.deltas:
        x, y, z = (dense[name].get(tensor, 0.0) for name in "xyz")
        whole = x + y - 0.5 * z
        np.testing.assert_allclose(product(adapter, tensor), whole, rtol=0, atol=1e-6 * np.abs(whole).max())


def test_gpt2_s_layers_and_names(tmp_path: Path) -> None:
    made = weights(gpt2_shapes(), 0, 0.1)
    bare = {name.removeprefix("transformer."): (w, "F32") for name, w in made.items()}
    write_checkpoint(tmp_path / "base", bare, config=GPT2)
    targets = {"transformer.h.0.attn.c_attn": (16, 48), "transformer.h.1.mlp.c_proj": (64, 16)}
    for seed, name in enumerate("xy"):
        named = {"base_model_name_or_path": str(tmp_path / "base"), "fan_in_fan_out": True}
        write_adapter(tmp_path / name, targets, seed=seed, **named)
    prepared = merge(merging.Linear(weight=(1.0, 3.0)), [tmp_path / "x", tmp_path / "y"])
    out = prepared.save(tmp_path / "out", as_adapter=True, rank=4)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is True
    keys = Checkpoint.open(out / "adapter_model.safetensors").tensors
    assert keys["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"].shape == (4, 16)
    whole = read(Checkpoint.open(prepared.save(tmp_path / "whole")))
    for tensor, value in read(Checkpoint.open(out)).items():
        np.testing.assert_allclose(value, whole[tensor], rtol=1e-5, atol=1e-5, err_msg=tensor)


def test_tensors_that_an_adapter_has_whole_stay_whole(root: Path) -> None:
    norm, head = np.full(16, 2, np.float32), np.full((40, 16), 0.5, np.float32)
    saved = {"model.norm.weight": norm, "lm_head.modules_to_save.weight": head}
    named = {"base_model_name_or_path": str(root / "base")}
    write_adapter(root / "x", {UP: (24, 16)}, saved=saved, **named)
    prepared = merge(merging.TaskArithmetic(weight=(0.5, 1.0)), [root / "x", root / "y"], root / "base")
    out = prepared.save(root / "out", as_adapter=True)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["lm_head", "model.norm"]
    model = read(Checkpoint.open(prepared.save(root / "whole", dtype="F32")))
    for tensor, value in read(Checkpoint.open(out)).items():
        tolerance = 4e-3 if tensor in ("lm_head.weight", "model.norm.weight") else 1e-5  # as the base: bf16
        np.testing.assert_allclose(value, model[tensor], rtol=tolerance, atol=1e-6, err_msg=tensor)
    assert verify(out, tensors=50).tensors[0] == "lm_head.weight"


def test_a_bias_beside_factors_is_written_as_peft_does(tmp_path: Path) -> None:
    made = {n: (w, "F32") for n, w in weights(gpt2_shapes(), 0, 0.1).items()}
    write_checkpoint(tmp_path / "base", made, config=GPT2)
    bias, layer = np.ones(48, np.float32), "transformer.h.0.attn.c_attn"
    named = {"base_model_name_or_path": str(tmp_path / "base"), "fan_in_fan_out": True}
    write_adapter(tmp_path / "x", {layer: (16, 48)}, saved={f"{layer}.base_layer.bias": bias}, **named)
    prepared = merge(merging.TaskArithmetic(), [tmp_path / "x"], tmp_path / "base")
    out = prepared.save(tmp_path / "out", as_adapter=True)
    assert json.loads((out / "adapter_config.json").read_text())["bias"] == "all"
    assert (
        f"base_model.model.{layer}.base_layer.bias"
        in Checkpoint.open(out / "adapter_model.safetensors").tensors
    )
    np.testing.assert_array_equal(Checkpoint.open(out).read(f"{layer}.bias"), bias)


REFUSED: dict[str, tuple[str, type[Exception]]] = {
    "coefficients sum to 0.9": (
        'method = "linear"\nmodels = ["x", "y"]\nweight = [0.5, 0.4]\nnormalize = false', ConfigError),
    "ties treats the elements": ('method = "ties"\nbase = "base"\nmodels = ["x", "y"]', ConfigError),
    "is a whole model": ('method = "linear"\nmodels = ["x", "a"]', MismatchError),
    "no input is an adapter": ('method = "linear"\nmodels = ["a", "base"]', MismatchError),
    "is an adapter of": ('method = "linear"\nmodels = ["x", "a+y"]', MismatchError),
    "layers and tokens": (
        'method = "linear"\n[[merge.slices]]\nsources = [{ model = "x", layers = [0, 2] }]', ConfigError),
    "treats the elements": ('method = "nuslerp"\nflatten = false\nmodels = ["x", "y"]', ConfigError),
    "the base itself": (
        'method = "task_arithmetic"\nbase = "base"\nmodels = ["x", "y"]\nweight = [0.0, 0.0]', ConfigError),
    "is neither the base's nor": (
        'method = "linear"\nmodels = ["x", "left"]\n[merge.left]\nmethod = "nearswap"\nt = 0.1\n'
        'models = ["x", "y"]', ConfigError),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_adapter_can_hold_is_refused(what: str, root: Path) -> None:
    text, kind = REFUSED[what]
    head, _, tables = text.partition("\n[")
    (root / "r.toml").write_text(f'[merge]\noutput = "adapter"\n{head}\n' + (f"[{tables}" if tables else ""))
    with pytest.raises(kind, match=what):
        resolve(Recipe.load(root / "r.toml")).save(root / "out")
    assert not (root / "out").exists()


def test_factors_of_two_orientations_are_refused(root: Path) -> None:
    config = root / "x" / "adapter_config.json"
    write_adapter(root / "x", {Q: (16, 16)}, base_model_name_or_path=str(root / "base"))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"fan_in_fan_out": True}))
    with pytest.raises(MismatchError, match="has fan_in_fan_out"):
        merge(merging.Linear(), [root / "x", root / "z"]).save(root / "out", as_adapter=True)


def test_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "r.yml").write_text(f"merge_method: linear\nmodels: [{{model: x}}, {{model: {root / 'base'}+z}}]")
    recipe, out = str(root / "r.yml"), str(root / "out")
    command = ["merge", recipe, out, "--as-adapter", "--rank", "2", "-q"]
    assert run(["plan", recipe, "--as-adapter", "--rank", "2"]) == 0
    assert "rank 2, 0 tensors whole" in capsys.readouterr().out
    assert run([*command, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["write_bytes"] == 4 * 2 * (16 + 16 + 24 + 16)
    assert not Path(out).exists()
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["adapter"]["ranks"] == [2, 2]
    assert 0 < found["adapter"]["relative_error"] < 1
    assert run(command) == 2
    assert "not empty" in capsys.readouterr().err
    assert run([*command, "--resume"]) == 0
    assert "the difference from the base is off by 0." in capsys.readouterr().out
    assert run(["merge", recipe, out, "--as-adapter", "--resume", "-q"]) == 2
    assert "another job" in capsys.readouterr().err
    assert run(["merge", recipe, out, "--rank", "2"]) == 2
    assert "--as-adapter" in capsys.readouterr().err
    assert run(["verify", out]) == 0
    assert "the error that is stated" in capsys.readouterr().out
    assert (
        run(["merge", recipe, out, "--overwrite", "-q"]) == 0
    )  # a whole model in its place: nothing is left
    assert not list(Path(out).glob("adapter_*"))
    assert run([*command, "--overwrite"]) == 0
    assert not list(Path(out).glob("model*")) + list(Path(out).glob("config.json"))


@pytest.mark.parametrize("at", ["adapter_model.safetensors", "heredity.lock.json", "adapter_config.json"])
def test_a_disk_that_fills_up_leaves_no_adapter(at: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = resolve(Recipe.load(root / "r.toml"))
    real = os.fsync

    def full(descriptor: int) -> None:
        if at in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="the disk is full"):
        prepared.save(root / "out")
    assert list((root / "out").iterdir()) == []
    monkeypatch.setattr(os, "fsync", real)
    assert len(Checkpoint.open(prepared.save(root / "out", resume=True)).deltas) == 3  # type: ignore[attr-defined]


def test_stopped_at_any_rename_there_is_no_adapter_and_it_goes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = resolve(Recipe.load(root / "r.toml"))
    whole = {f.name: f.read_bytes() for f in prepared.save(root / "whole" / "out").iterdir()}
    real = os.replace
    for last in range(10):
        count = 0

        def stopping(*given: Any, last: int = last, **named: Any) -> None:
            nonlocal count
            if count == last:
                raise KeyboardInterrupt
            count += 1
            real(*given, **named)

        monkeypatch.setattr(os, "replace", stopping)
        out = root / f"stopped before {last}" / "out"
        with pytest.raises(KeyboardInterrupt):
            prepared.save(out)
        monkeypatch.setattr(os, "replace", real)
        assert not (out / "adapter_model.safetensors").exists()
        prepared.save(out, resume=True)
        assert {f.name: f.read_bytes() for f in out.iterdir()} == whole


def test_a_changed_factor_is_found(root: Path) -> None:
    out = resolve(Recipe.load(root / "r.toml")).save(root / "out")
    factors = read(Checkpoint.open(root / "x" / "adapter_model.safetensors"))
    factors[f"base_model.model.{UP}.lora_A.weight"] *= 1.01
    write_checkpoint(root / "changed", {n: (w, "F32") for n, w in factors.items()})
    (root / "changed" / "model.safetensors").rename(root / "x" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="is not what the recipe makes of the adapters"):
        verify(out, tensors=50)


PEFT = sys.executable if find_spec("peft") else os.environ.get("HEREDITY_MERGEKIT_PYTHON", "")
LOADS = """
import json, sys
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
merged = model.merge_and_unload().state_dict()
save_file({name: tensor.clone().contiguous() for name, tensor in merged.items()}, out)
"""


@pytest.mark.peer
@pytest.mark.skipif(
    not PEFT, reason="peft is not installed, and HEREDITY_MERGEKIT_PYTHON names no interpreter with it"
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_peft_loads_it(architecture: str, tmp_path: Path) -> None:
    """Needs peft here, or in the interpreter of HEREDITY_MERGEKIT_PYTHON."""
    make, config = {"llama": (llama_shapes, LLAMA), "gpt2": (gpt2_shapes, GPT2)}[architecture]
    made = {n: (w, "F32") for n, w in weights(make(), 0, 0.1).items()}
    write_checkpoint(tmp_path / "base", made, config=config)
    sides: dict[str, tuple[int, int]] = SHAPES
    saved = {"lm_head.weight": np.full((40, 16), 0.5, np.float32)}
    if architecture == "gpt2":
        sides = {"transformer.h.0.attn.c_attn": (16, 48), "transformer.h.1.attn.c_attn": (16, 48)}
        sides |= {"transformer.h.1.mlp.c_fc": (16, 64)}
        saved = {
            "transformer.ln_f.weight": np.full(16, 2, np.float32),
            "transformer.ln_f.bias": np.ones(16, np.float32),
        }
    named: dict[str, Any] = {"base_model_name_or_path": str(tmp_path / "base"), "task_type": "CAUSAL_LM"}
    named["fan_in_fan_out"] = architecture == "gpt2"
    modules = list(sides)
    write_adapter(tmp_path / "x", {m: sides[m] for m in modules[:2]}, rank=2, alpha=0.5, saved=saved, **named)
    write_adapter(tmp_path / "y", {m: sides[m] for m in modules[1:]}, rank=3, alpha=0.5, seed=1, **named)
    out = merge(merging.Linear(weight=(1.0, 3.0)), [tmp_path / "x", tmp_path / "y"]).save(
        tmp_path / "out", as_adapter=True
    )
    (tmp_path / "loads.py").write_text(LOADS)
    command = [
        PEFT,
        str(tmp_path / "loads.py"),
        str(tmp_path / "base"),
        str(out),
        str(tmp_path / "merged.safetensors"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "missing" not in done.stderr.lower()
    theirs, ours = read(Checkpoint.open(tmp_path / "merged.safetensors")), read(Checkpoint.open(out))
    for tensor, value in ours.items():
        np.testing.assert_allclose(theirs[tensor], value, rtol=1e-5, atol=1e-6, err_msg=tensor)
