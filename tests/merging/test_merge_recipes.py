"""Recipes: TOML and mergekit's YAML, gradients, filters, slices, chains, algebra; what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merge_pico import family, read
from numpy import ndarray

from heredity import merging
from heredity.checkpoint import Checkpoint
from heredity.errors import ConfigError, MismatchError
from heredity.merging import Recipe, merge
from heredity.merging.expression import coefficients
from heredity.merging.resolve import resolve
from heredity.merging.settings import evaluate
from heredity.merging.verify import verify


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("family")
    family(folder, models=3)
    family(folder / "deep", models=1, layers=5)
    return folder


def merged(folder: Path, text: str, suffix: str = ".toml") -> dict[str, ndarray]:
    path = folder / f"recipe{suffix}"
    path.write_text(text)
    prepared = resolve(Recipe.load(path))
    shapes = {name: info.shape for name, info in prepared.plan.tensors.items()}
    return {n: np.concatenate([b.copy() for b in prepared.blocks(n)]).reshape(s) for n, s in shapes.items()}


def same(left: dict[str, ndarray], right: dict[str, ndarray]) -> None:
    assert list(left) == sorted(right)
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_toml_equals_python(models: Path) -> None:
    found = merged(models, '[merge]\nmethod = "slerp"\nt = 0.58\nbase = "a"\nmodels = ["b"]')
    prepared = merge(merging.Slerp(t=0.58), [models / "a", models / "b"])
    same(found, {n: np.concatenate(list(prepared.blocks(n))).reshape(v.shape) for n, v in found.items()})


def test_yaml_and_toml_of_one_merge_are_the_same(models: Path) -> None:
    yaml = """
merge_method: ties
base_model: base
models:
  - model: a
    parameters: {weight: 0.5, density: 0.4}
  - model: b
    parameters: {weight: 0.25}
  - model: base
parameters: {density: 0.7, int8_mask: true, normalize: false}
dtype: float32
"""
    toml = """
[merge]
method = "ties"
base = "base"
models = ["a", "b"]
weight = [0.5, 0.25]
density = [0.4, 0.7]
normalize = false
"""
    same(merged(models, yaml, ".yml"), merged(models, toml))


def test_gradients_and_filters_decide_by_layer_and_name(models: Path) -> None:
    found = merged(
        models,
        """
merge_method: linear
models:
  - model: a
    parameters:
      weight:
        - {filter: self_attn, value: [0, 0.5, 1]}
        - {filter: mlp, value: [1, 0]}
        - value: 0.25
  - model: b
    parameters: {weight: 1}
parameters: {normalize: false}
""",
        ".yaml",
    )
    a, b = (read(Checkpoint.open(models / name)) for name in "ab")
    weights = {"self_attn": [0, 0.5, 1], "mlp": [1, 0.5, 0]}
    for name, value in found.items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        weight = next((w[layer] for key, w in weights.items() if key in name), 0.25)
        np.testing.assert_allclose(value, weight * a[name] + b[name], rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(
    ("setting", "position", "value"),
    [
        ([0, 1], 0.25, 0.25), ([0, 0.5, 0.3, 0.7, 1], 0.5, 0.3), ([0, 0.5, 0.3, 0.7, 1], 0.625, 0.5),
        ([3], 1.0, 3),
        ([True, False], 1.0, False), ([{"filter": "x", "value": 1}, {"value": [2, 4]}], 0.5, 3),
        (0.5, 1.0, 0.5),
        ({"filter": "norm", "value": 7}, 0.0, 7), ([{"filter": "x", "value": 1}], 0.0, None), ([], 0.0, None),
        ([{"filter": "*", "value": 2}], 0.0, 2),
    ],
)  # fmt: skip
def test_settings(setting: Any, position: float, value: Any) -> None:
    assert evaluate(setting, "model.norm", position) == value


def test_slices_stack_layers_and_renumber_them(models: Path, tmp_path: Path) -> None:
    text = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [
      {model: deep/a, layer_range: [1, 5], parameters: {scale: [{filter: o_proj, value: 0}, {value: 1}]}}]
"""
    (models / "stack.yml").write_text(text)
    prepared = resolve(Recipe.load(models / "stack.yml"))
    out = Checkpoint.open(prepared.save(tmp_path / "out"))
    a, deep = read(Checkpoint.open(models / "a")), read(Checkpoint.open(models / "deep/a"))
    assert out.config["num_hidden_layers"] == 6
    assert sum(".q_proj." in name for name in out.tensors) == 6
    for layer, (source, own) in enumerate([(a, 0), (a, 1), (deep, 1), (deep, 2), (deep, 3), (deep, 4)]):
        for part in ("self_attn.q_proj", "mlp.up_proj", "self_attn.o_proj"):
            wanted = source[f"model.layers.{own}.{part}.weight"] * (layer < 2 or "o_proj" not in part)
            np.testing.assert_array_equal(out.read(f"model.layers.{layer}.{part}.weight"), wanted)
    np.testing.assert_array_equal(out.read("model.embed_tokens.weight"), a["model.embed_tokens.weight"])
    np.testing.assert_array_equal(out.read("lm_head.weight"), deep["lm_head.weight"])
    with pytest.raises(ConfigError, match="not a sum of tensors of that name"):
        prepared.point()


def test_slices_merge_within_and_gradients_run_over_the_slice(models: Path) -> None:
    found = merged(
        models,
        """
merge_method: slerp
base_model: a
slices:
  - sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [0, 3]}]
parameters: {t: [0, 1]}
""",
        ".yml",
    )
    a, b = (read(Checkpoint.open(models / name)) for name in "ab")
    np.testing.assert_allclose(found["model.embed_tokens.weight"], a["model.embed_tokens.weight"], rtol=1e-6)
    name = "model.layers.2.mlp.up_proj.weight"
    np.testing.assert_allclose(found[name], b[name], rtol=1e-6)


def test_a_chain_needs_no_intermediate_file_and_unfolds_in_the_span(models: Path) -> None:
    text = """
[merge]
method = "linear"
models = ["left", "c"]
weight = [0.75, 0.25]
[merge.left]
method = "slerp"
t = 0.3
models = ["a", "b"]
"""
    found = merged(models, text)
    inner = merge(merging.Slerp(t=0.3), [models / "a", models / "b"])
    c = read(Checkpoint.open(models / "c"))
    for name, value in found.items():
        left = np.concatenate([block.copy() for block in inner.blocks(name)]).reshape(value.shape)
        np.testing.assert_allclose(value, 0.75 * left + 0.25 * c[name], rtol=2e-6, atol=1e-7)
    point = resolve(Recipe.load(models / "recipe.toml")).point()
    assert point.members == ("a", "b", "c")


def test_a_chain_is_verified_from_anywhere(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
[merge]
method = "linear"
models = ["left", "first"]
paths = { first = "c" }
[merge.left]
method = "slerp"
t = 0.3
models = ["a", "first"]
"""
    (models / "chain.toml").write_text(text)
    out = resolve(Recipe.load(models / "chain.toml")).save(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert len(verify(out, tensors=50).tensors) == 30


def test_a_chain_through_an_element_wise_method(models: Path) -> None:
    text = """
[merge]
method = "ties"
base = "base"
models = ["mixed", "c"]
density = 0.5
[merge.mixed]
method = "nearswap"
t = 0.01
models = ["a", "b"]
"""
    found = merged(models, text)
    kept = models / "kept"
    merge(merging.NearSwap(t=0.01), [models / "a", models / "b"]).save(kept)
    direct = merge(merging.Ties(density=0.5), [kept, models / "c"], models / "base")
    same(found, {n: np.concatenate(list(direct.blocks(n))).reshape(v.shape) for n, v in found.items()})


def test_task_algebra(models: Path) -> None:
    text = '[merge]\nexpression = "base + 0.8 * (a - base) - 0.3 * (b - base)"\nmodels = ["base", "a", "b"]'
    found = merged(models, text)
    base, a, b = (read(Checkpoint.open(models / name)) for name in ("base", "a", "b"))
    same(found, {n: base[n] + 0.8 * (a[n] - base[n]) - 0.3 * (b[n] - base[n]) for n in base})


@pytest.mark.parametrize(
    ("text", "terms"),
    [("a", {"a": 1}), ("-(a - 2 * b) / 4", {"a": -0.25, "b": 0.5}), ("a - b + c", {"a": 1, "b": -1, "c": 1}),
     ("(1 + 1) * a - 0 * b", {"a": 2, "b": 0})],
)  # fmt: skip
def test_expressions(text: str, terms: dict[str, float]) -> None:
    assert coefficients(text) == terms


@pytest.mark.parametrize(
    "text", ["a * b", "a + 1", "f(a)", "a /", "1 / a", "2", "a ** 2", "a if b else c", "a.b"]
)
def test_expressions_that_are_not_linear_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        coefficients(text)


REFUSED = {
    "unknown field 'densty'": '[merge]\nmethod = "ties"\nbase = "base"\nmodels = ["a"]\ndensty = 0.5',
    "unknown merge method 'slurp'": '[merge]\nmethod = "slurp"\nmodels = ["a", "b"]',
    "none is named": '[merge]\nmethod = "ties"\nmodels = ["a"]',
    "takes 1 models besides the base, got 2": '[merge]\nmethod = "slerp"\nt = 0.5\nmodels = ["a", "b", "c"]',
    "missing field 'models'": '[merge]\nmethod = "linear"',
    "missing field 't'": '[merge]\nmethod = "slerp"\nmodels = ["a", "b"]',
    "one table": 'method = "linear"',
    "2 values for 3 models": '[merge]\nmethod = "linear"\nmodels = ["a", "b", "c"]\nweight = [1, 2]',
    "cannot be written": '[merge]\nmethod = "linear"\nmodels = ["a"]\ndtype = "int8"',
    "not TOML": "[merge",
    "<= 1.0": '[merge]\nmethod = "slerp"\nt = 2\nmodels = ["a", "b"]',
}
REFUSED_YAML = {
    "unknown field 'merge_methd'": "merge_methd: linear",
    "'llama3' is not built in": "merge_method: linear\nmodels: [{model: a}]\nchat_template: llama3",
    "expected a table with 'source'": "merge_method: linear\nmodels: [a]\ntokenizer: {tokens: {x: {}}}",
    "unknown field 'padding'": "merge_method: linear\nmodels: [a]\ntokenizer: {padding: 64}",
    "2 'modules' are not supported": "merge_method: linear\nmodules: {a: {models: []}, b: {models: []}}",
    "exactly one of": "merge_method: linear\nmodels: [{model: a}]\nslices: [{sources: []}]",
    "no method has a parameter 'wieght'": "merge_method: linear\nmodels: [a]\nparameters: {wieght: 1}",
    "'override_architecture'": "merge_method: linear\nmodels: [{model: {model: a, override_architecture: b}}]",
    "layers": "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 9]}]}]",
    "not YAML": "merge_method: [",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_recipe_gets_wrong_is_named(what: str, models: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        merged(models, REFUSED[what])
    assert what in caught.value.message


@pytest.mark.parametrize("what", REFUSED_YAML)
def test_what_is_not_supported_of_mergekit_is_refused_by_name(what: str, models: Path) -> None:
    with pytest.raises((ConfigError, MismatchError)) as caught:
        merged(models, REFUSED_YAML[what], ".yml")
    assert what in caught.value.message


def test_parameters_of_other_methods_are_noted(models: Path) -> None:
    (models / "n.yml").write_text(
        "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1, density: 0.5}"
    )
    assert resolve(Recipe.load(models / "n.yml")).plan.notes == ("density has no effect on Linear",)


def test_a_family_gives_names_and_labels(models: Path) -> None:
    entries = "".join(
        f'[[member]]\nname = "m{n}"\npath = "{n}"\nlabels = {{ task = "{t}" }}\n'
        for n, t in [("a", "x"), ("b", "x"), ("c", "y")]
    )
    (models / "family.toml").write_text(f'[family]\nname = "f"\n{entries}')
    found = merged(models, '[merge]\nmethod = "centroid"\nfamily = "family.toml"\nlabels = { task = "x" }')
    a, b = (read(Checkpoint.open(models / name)) for name in "ab")
    same(found, {n: (a[n] + b[n]) / 2 for n in a})
