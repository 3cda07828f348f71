"""Adapters among the models of a merge, against fp64 sums of dense products."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import merge_oracles as oracles
import numpy as np
import pytest
from merge_pico import family, read
from numpy import ndarray

from heredity import merging
from heredity.checkpoint import Checkpoint
from heredity.cli._main import run
from heredity.errors import ConfigError, MismatchError
from heredity.merging import Method, Recipe, merge
from heredity.merging.output import check_agreed, plan_record
from heredity.merging.resolve import resolve
from heredity.merging.verify import read_lock, verify
from pico import write_adapter

Q, UP, EMBED = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.embed_tokens"
SHAPES = {Q: (16, 16), UP: (24, 16), EMBED: (40, 16)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write base and a, and adapters x and y of the base that change some tensors in common."""
    family(tmp_path, models=1)
    named = {"base_model_name_or_path": str(tmp_path / "base")}
    write_adapter(tmp_path / "x", {k: SHAPES[k] for k in (Q, UP)}, alpha=0.1, seed=1, **named)
    write_adapter(tmp_path / "y", {k: SHAPES[k] for k in (UP, EMBED)}, rank=3, alpha=0.1, seed=2, **named)
    return tmp_path


def dense(root: Path, adapter: str) -> dict[str, ndarray]:
    """Return base + s·B·A in fp64 from the files, without heredity's adapters."""
    found = {name: value.astype(np.float64) for name, value in read(Checkpoint.open(root / "base")).items()}
    factors = read(Checkpoint.open(root / adapter / "adapter_model.safetensors"))
    config = json.loads((root / adapter / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    for key, a in factors.items():
        module = key.removeprefix("base_model.model.")
        if module.endswith(".lora_A.weight"):
            b = factors[key.replace("lora_A", "lora_B")].astype(np.float64)
            found[module.replace("lora_A.", "")] += scale * b @ a
        elif module.endswith(".lora_embedding_A"):
            b = factors[key.replace("_embedding_A", "_embedding_B")].astype(np.float64)
            found[module.replace("lora_embedding_A", "weight")] += scale * (b @ a).T
    return found


def merged(prepared: Any) -> dict[str, ndarray]:
    shapes = {name: info.shape for name, info in prepared.plan.tensors.items()}
    return {n: np.concatenate([b.copy() for b in prepared.blocks(n)]).reshape(s) for n, s in shapes.items()}


CASES: dict[str, tuple[Method, bool, Callable[[ndarray, list[ndarray]], ndarray]]] = {
    "linear": (merging.Linear(weight=(0.3, 0.9, 0.5)), False, lambda b, m: oracles.linear(m, [0.3, 0.9, 0.5])),
    "slerp": (merging.Slerp(t=0.3), False, lambda b, m: oracles.slerp(m[0], m[1:], 0.3)),
    "ties": (
        merging.Ties(weight=(0.6, 0.4, 0.3), density=0.4), True,
        lambda b, m: oracles.ties(b, m, [0.6, 0.4, 0.3], 0.4),
    ),
    "model_stock": (merging.ModelStock(), True, oracles.model_stock),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_adapters_are_models_like_others(case: str, root: Path) -> None:
    method, based, oracle = CASES[case]
    names = ["x", "y"] if case == "slerp" else ["x", "a", "y"]
    prepared = merge(method, [root / n for n in names], root / "base" if based else None)
    base = {n: w.astype(np.float64) for n, w in read(Checkpoint.open(root / "base")).items()}
    whole = {n: w.astype(np.float64) for n, w in read(Checkpoint.open(root / "a")).items()}
    models = [whole if n == "a" else dense(root, n) for n in names]
    for name, value in merged(prepared).items():
        expected = oracle(base[name], [model[name] for model in models])
        same = np.isclose(value, expected, rtol=1e-5, atol=2e-7)
        assert same.all(), f"{name}: {(~same).sum()} of {same.size} differ"


def test_a_merge_that_begins_with_an_adapter_has_its_base_s_configuration(root: Path) -> None:
    (root / "base" / "tokenizer.json").write_text("base's")
    out = merge(merging.Slerp(t=0.3), [root / "x", root / "y"]).save(root / "out", hash_inputs=True)
    assert Checkpoint.open(out).config["model_type"] == "llama"
    assert (out / "tokenizer.json").read_text() == "base's"
    assert read_lock(out)["donor"] == "base"
    (root / "x" / "tokenizer.json").write_text("its own")
    merge(merging.Slerp(t=0.3), [root / "x", root / "y"]).save(out, overwrite=True, hash_inputs=True)
    assert (out / "tokenizer.json").read_text() == "its own"
    assert len(verify(out, tensors=50).tensors) == 30


def test_another_scale_of_an_adapter_is_another_input(root: Path) -> None:
    prepared = merge(merging.Linear(), [root / "x", root / "y"])
    agreed = json.loads(json.dumps(plan_record(prepared)))
    file = root / "x" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "lora_alpha": 0.25}))
    with pytest.raises(MismatchError, match=r"adapter_config\.json: changed since it was planned"):
        check_agreed(prepared, agreed, root / "plan.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.toml", '[merge]\nmethod = "linear"\nmodels = ["other+x", { model = "base", lora = "y", weight = 3.0 }]'),
        ("r.toml", '[merge]\nmethod = "linear"\nmodels = ["p+q", "base+y"]\nweight = [1.0, 3.0]\n'
                   'paths = { p = "other", q = "x" }'),
        ("r.yml", "merge_method: linear\nmodels:\n- {model: other+x, parameters: {weight: 1}}\n"
                  "- {model: {model: {path: base}, lora: {path: y}}, parameters: {weight: 3}}"),
    ],
)  # fmt: skip
def test_an_adapter_on_a_base_that_the_recipe_names(name: str, text: str, root: Path) -> None:
    (root / "a").rename(root / "other")
    (root / name).write_text(text)
    prepared = resolve(Recipe.load(root / name))
    shift = {
        n: w - read(Checkpoint.open(root / "base"))[n]
        for n, w in read(Checkpoint.open(root / "other")).items()
    }
    x, y = dense(root, "x"), dense(root, "y")
    for tensor, value in merged(prepared).items():
        expected = 0.25 * (x[tensor] + shift[tensor]) + 0.75 * y[tensor]
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=2e-7, err_msg=tensor)
    out = prepared.save(root / "out", hash_inputs=True)
    assert len(verify(out, tensors=50).tensors) == 30


def test_one_adapter_on_two_bases_is_two_models(root: Path) -> None:
    prepared = merge(merging.Linear(), [f"{root / 'base'}+{root / 'x'}", f"{root / 'a'}+{root / 'x'}"])
    base, a = (read(Checkpoint.open(root / n))[f"{Q}.weight"] for n in ("base", "a"))
    shift = dense(root, "x")[f"{Q}.weight"] - base
    np.testing.assert_allclose(merged(prepared)[f"{Q}.weight"], (base + a) / 2 + shift, rtol=1e-5, atol=2e-7)
    assert len(prepared.checkpoints) == 2


@pytest.mark.parametrize(
    ("models", "error", "words"),
    [
        ('["base+a"]', None, "has no adapter_config.json"),
        ('["base+nowhere"]', None, "nowhere"),
        ('["left+x"]\n[merge.left]\nmethod = "linear"\nmodels = ["a"]', ConfigError, "on the result of a merge"),
    ],
)  # fmt: skip
def test_what_is_no_adapter_is_named(
    models: str, error: type[Exception] | None, words: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "r.toml").write_text(f'[merge]\nmethod = "linear"\nmodels = {models}')
    assert run(["merge", str(root / "r.toml"), str(root / "out")]) == (2 if error else 1)
    assert words in capsys.readouterr().err


def test_quantised_models_are_refused_by_plan_and_merge(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((root / "a" / "config.json").read_text())
    (root / "a" / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 8}}))
    raw = (root / "a" / "model.safetensors").read_bytes()
    # one layer as packed bytes: four for every number that it had
    entry = b'"dtype":"F32","shape":[16,16]'
    start = raw.index(b'"model.layers.0.self_attn.q_proj.weight"')
    at = raw.index(entry, start)
    packed = b'"dtype":"U8","shape":[1024 ]'.ljust(len(entry))
    (root / "a" / "model.safetensors").write_bytes(raw[:at] + packed + raw[at + len(entry) :])
    (root / "r.toml").write_text('[merge]\nmethod = "linear"\nmodels = ["a", "base"]')
    for command in (["plan", str(root / "r.toml")], ["merge", str(root / "r.toml"), str(root / "out")]):
        assert run(command) == 3
        assert "its stored numbers are not its weights" in capsys.readouterr().err
    with pytest.raises(MismatchError, match="packed"):
        merge(merging.Linear(), [root / "a", root / "base"])
