"""SAEs on disk: SAELens' layout written and read, sparsify's read, and files of others refused by name."""

import json

import numpy as np
import pytest
import torch
from sae_examples import EXAMPLES, SITE, formula, some
from safetensors.torch import load_file, save_file

from heredity.errors import MismatchError, StoreError
from heredity.features.sae import SAE, TopK, load, save
from heredity.seeds import generator

ARCHITECTURES = {
    "batchtopk": "jumprelu", "crosscoder": "crosscoder", "gated": "gated", "jumprelu": "jumprelu",
    "l1": "standard", "topk": "topk",
}  # fmt: skip
OWN_TENSORS = {"gated": {"b_gate", "b_mag", "r_mag"}, "l1": {"b_enc"}, "topk": {"b_enc"}}


def rows(seed=1, n=200, d_in=24):
    return generator(seed, "x").standard_normal((n, d_in)).astype(np.float32)


def same_function(one, two):
    x = rows()
    np.testing.assert_allclose(one.codes(x).dense(one.d_sae), two.codes(x).dense(two.d_sae), atol=2e-6)
    t = torch.from_numpy(x)
    np.testing.assert_allclose(one.reconstruct(t)[0], two.reconstruct(t)[0], atol=5e-6)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_saelens_layout_survives_the_disk(name, tmp_path):
    variant = EXAMPLES[name]
    sae = some(variant)
    save(sae, tmp_path / "sae")
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["architecture"] == ARCHITECTURES[name]
    assert (config["d_in"], config["d_sae"], config["dtype"]) == (24, 60, "float32")
    assert config["apply_b_dec_to_input"] is True
    assert config["normalize_activations"] == config["reshape_activations"] == "none"
    assert config.get("k") == (4 if name == "topk" else None)
    assert config["metadata"]["sae_lens_version"] >= "6.0.0"
    assert config["metadata"]["hook_name"] == SITE
    shapes = {n: tuple(t.shape) for n, t in load_file(tmp_path / "sae" / "sae_weights.safetensors").items()}
    vectors = OWN_TENSORS.get(name, {"b_enc", "threshold"})
    assert shapes == {"W_enc": (24, 60), "W_dec": (60, 24), "b_dec": (24,)} | dict.fromkeys(vectors, (60,))
    again = load(tmp_path / "sae")
    assert again.variant == variant
    assert again.metadata == sae.metadata
    for field in ("W_enc", "W_dec", "b_enc", "b_dec"):
        assert torch.equal(getattr(again, field), getattr(sae, field))
    assert again.extra.keys() == sae.extra.keys()
    assert all(torch.equal(again.extra[n], sae.extra[n]) for n in sae.extra)
    first = (tmp_path / "sae" / "cfg.json").read_bytes()
    save(again, tmp_path / "twice")
    assert (tmp_path / "twice" / "cfg.json").read_bytes() == first


def foreign(name, folder, changes=None, tensors=None):
    """The example as another tool would have written it: nothing of ours in its record."""
    sae = some(EXAMPLES[name])
    save(sae, folder)
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"].pop("heredity")
    (folder / "cfg.json").write_text(json.dumps(config | (changes or {})))
    if tensors:
        file = folder / "sae_weights.safetensors"
        save_file({n: t.contiguous() for n, t in tensors(load_file(file)).items()}, file)
    return sae


@pytest.mark.parametrize("name", ["gated", "jumprelu", "l1", "topk"])
def test_foreign_files_are_read(name, tmp_path):
    sae = foreign(name, tmp_path)
    again = load(tmp_path)
    assert type(again.variant) is type(sae.variant)
    assert again.metadata == {"member": "base", "site": SITE}
    same_function(again, sae)


@pytest.mark.parametrize("name", ["gated", "jumprelu", "l1", "topk"])
def test_a_bias_that_is_not_subtracted_first_is_folded(name, tmp_path):
    def unfold(tensors):  # the same function, written otherwise
        shift = tensors["b_dec"] @ tensors["W_enc"]
        for bias in {"b_enc", "b_gate"} & set(tensors):
            tensors[bias] = tensors[bias] - shift
        if "b_mag" in tensors:
            tensors["b_mag"] = tensors["b_mag"] - shift * tensors["r_mag"].exp()
        return tensors

    sae = foreign(name, tmp_path, {"apply_b_dec_to_input": False}, unfold)
    same_function(load(tmp_path), sae)


def test_decoder_norms_are_folded(tmp_path):
    size = torch.linspace(0.5, 2, 60)

    def unfold(tensors):
        tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] / size, tensors["b_enc"] / size
        tensors["W_dec"] = tensors["W_dec"] * size[:, None]
        return tensors

    sae = foreign("topk", tmp_path, {"rescale_acts_by_decoder_norm": True}, unfold)
    same_function(load(tmp_path), sae)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "matryoshka"}, "architecture 'matryoshka' is not known"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'"),
        ({"normalize_activations": "expected_average_only_in"}, "normalize_activations is 'expected_average_only_in'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
        ({"activation_fn_str": "tanh-relu"}, "activation_fn_str is 'tanh-relu'"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor is True"),
        ({"k": None}, "a topk SAE without k"),
        ({"k": "many"}, r"Expected `int \| null`, got `str` - at `\$\.k`"),
        ({"k": 0}, r">= 1 - at `\$\.k`"),
        ({"d_in": -3}, r">= 1 - at `\$\.d_in`"),
        ({"metadata": []}, r"at `\$\.metadata`"),
        ({"metadata": {"heredity": 3}}, "metadata.heredity is no record"),
        ({"metadata": {"heredity": {"variant": {"type": "L1", "d_sae": 60, "l1": 1}}}}, "'topk' is not known as 'L1'"),
        ({"metadata": {"heredity": {"variant": {"type": "TopK", "d_sae": 60}}}}, "not a TopK SAE .*required field `k`"),
        ({"architecture": "crosscoder", "metadata": {}}, "not a Crosscoder SAE"),
    ],
)  # fmt: skip
def test_unknown_settings_are_refused_by_name(changes, message, tmp_path):
    foreign("topk", tmp_path, changes)
    with pytest.raises(StoreError, match=message) as error:
        load(tmp_path)
    assert "\n" not in error.value.message
    assert error.value.hint


def test_weights_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(StoreError, match="no such file"):
        load(tmp_path)
    foreign("topk", tmp_path, {"d_sae": 61})
    with pytest.raises(MismatchError, match=r"W_enc is \(24, 60\), cfg.json says \(24, 61\)"):
        load(tmp_path)
    foreign("topk", tmp_path, None, lambda t: t | {"b_dec": torch.zeros(25)})
    with pytest.raises(MismatchError, match=r"b_dec is \(25,\), cfg.json says \(24,\)"):
        load(tmp_path)
    foreign("topk", tmp_path, None, lambda t: t | {"scaling_factor": torch.ones(60)})
    with pytest.raises(StoreError, match="unknown tensor 'scaling_factor'"):
        load(tmp_path)
    foreign("gated", tmp_path, None, lambda t: {n: v for n, v in t.items() if n != "r_mag"})
    with pytest.raises(StoreError, match="no tensor 'r_mag'"):
        load(tmp_path)
    foreign("topk", tmp_path, None, lambda t: t | {"b_enc": torch.full((60,), torch.nan)})
    with pytest.raises(StoreError, match="b_enc is not finite"):
        load(tmp_path)
    foreign("topk", tmp_path, None, lambda t: t | {"b_enc": torch.zeros(60, dtype=torch.int32)})
    with pytest.raises(StoreError, match=r"b_enc is torch\.int32"):
        load(tmp_path)
    (tmp_path / "sae_weights.safetensors").write_bytes(b"\x08")
    with pytest.raises(StoreError, match="cannot be read"):
        load(tmp_path)
    for text in ("", "{", "[]", "[" * 100_000):
        (tmp_path / "cfg.json").write_text(text)
        with pytest.raises(StoreError, match="cannot be read as an SAE's record"):
            load(tmp_path)


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(MismatchError, match="W_dec"):
        SAE(
            variant=TopK(d_sae=6, k=1), W_enc=torch.zeros(3, 6), W_dec=torch.zeros(3, 6),
            b_enc=torch.zeros(6), b_dec=torch.zeros(3),
        )  # fmt: skip
    jump = some(EXAMPLES["jumprelu"])
    with pytest.raises(MismatchError, match="threshold is None"):
        SAE(
            variant=jump.variant, W_enc=jump.W_enc, W_dec=jump.W_dec, b_enc=jump.b_enc, b_dec=jump.b_dec,
        )  # fmt: skip


def sparsify_folder(folder, sae, **changes):
    """A folder as sparsify writes it."""
    folder.mkdir()
    tensors = {
        "encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec,
    }  # fmt: skip
    tensors = {n: t.to(changes.pop("dtype", torch.float32)).contiguous() for n, t in tensors.items()}
    save_file(tensors, folder / "sae.safetensors")
    config = {
        "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": 60, "k": 4,
        "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": 24,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config | changes))


def test_sparsify_folders_are_read(tmp_path):
    sae = some(TopK(d_sae=60, k=4))
    sparsify_folder(tmp_path / "layers.0.mlp", sae)
    again = load(tmp_path / "layers.0.mlp")
    assert again.variant == TopK(d_sae=60, k=4)
    x = rows()
    np.testing.assert_allclose(again.codes(x).dense(60), formula(sae, x), atol=1e-5)
    same_function(again, sae)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"activation": "groupmax"}, StoreError, "activation is 'groupmax'"),
        ({"skip_connection": True}, StoreError, "skip_connection is True"),
        ({"transcode": True}, StoreError, "transcode is True"),
        ({"num_latents": 0}, MismatchError, r"encoder.weight is \(60, 24\), cfg.json says \(768, 24\)"),
        ({"k": None}, StoreError, r"at `\$\.k`"),
    ],
)
def test_other_kinds_of_sparsify_are_refused(changes, kind, message, tmp_path):
    sparsify_folder(tmp_path / "x", some(TopK(d_sae=60, k=4)), **changes)
    with pytest.raises(kind, match=message):
        load(tmp_path / "x")
