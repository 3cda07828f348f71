import json

import numpy as np
import pytest
import torch
from planted import stream
from safetensors.torch import load_file, save_file
from test_harvest import OUT, SITE, pico

from heredity.errors import ConfigError, MismatchError, StoreError
from heredity.features.evaluate import quality, quality_curve
from heredity.features.sae import L1, SAE, TopK, load, save, variants
from heredity.seeds import generator


def some(variant, d_in=24, seed=0):
    draw = generator(seed, "sae")
    rows = draw.standard_normal((variant.d_sae, d_in)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return SAE(
        variant=variant,
        W_enc=torch.from_numpy(rows.T.copy()),
        W_dec=torch.from_numpy(rows),
        b_enc=torch.from_numpy(draw.standard_normal(variant.d_sae).astype(np.float32)) * 0.1,
        b_dec=torch.from_numpy(draw.standard_normal(d_in).astype(np.float32)) * 0.1,
        metadata={"member": "base", "site": SITE, "seed": 7, "context": 32},
    )


VARIANTS = [TopK(d_sae=60, k=4), L1(d_sae=60, l1=0.5)]


def test_every_variant_file_is_tried_here():
    assert variants() == sorted(type(v).__name__.lower() for v in VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sparse_and_dense_codes_agree_with_the_formula(variant):
    sae = some(variant)
    x = generator(1, "x").standard_normal((300, 24)).astype(np.float32)
    pre = (x - sae.b_dec.numpy()) @ sae.W_enc.numpy() + sae.b_enc.numpy()
    want = np.maximum(pre, 0)
    if isinstance(variant, TopK):
        want[pre < -np.sort(-pre, axis=1)[:, [3]]] = 0
    np.testing.assert_allclose(sae.codes(x).dense(60), want, atol=1e-5)
    np.testing.assert_allclose(sae.encode(torch.from_numpy(x)), want, atol=1e-5)
    again, codes = sae.reconstruct(torch.from_numpy(x))
    np.testing.assert_allclose(again, want @ sae.W_dec.numpy() + sae.b_dec.numpy(), atol=1e-5)
    np.testing.assert_allclose(again, sae.decode(torch.from_numpy(codes.dense(60))), atol=1e-5)


def test_topk_with_few_positive_ones_and_ties():
    pre = np.array([[-1, -2, 0, -0.5], [2, 2, 2, 2], [0, 1, 0, 3], [np.inf, 1, 2, 3]], np.float32)
    codes = TopK(d_sae=4, k=2).activate(pre)
    assert np.diff(codes.indptr).tolist() == [0, 2, 2, 2]
    assert codes.indices.tolist() == [0, 1, 1, 3, 0, 3]
    assert codes.values.tolist() == [2, 2, 1, 3, np.inf, 3]


@pytest.mark.parametrize("variant", VARIANTS)
def test_saelens_layout_survives_the_disk(variant, tmp_path):
    sae = some(variant)
    save(sae, tmp_path / "sae")
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["architecture"] == {"TopK": "topk", "L1": "standard"}[type(variant).__name__]
    assert (config["d_in"], config["d_sae"], config["dtype"]) == (24, 60, "float32")
    assert config["apply_b_dec_to_input"] is True
    assert config["normalize_activations"] == config["reshape_activations"] == "none"
    assert config.get("k") == getattr(variant, "k", None)
    assert config["metadata"]["sae_lens_version"] >= "6.0.0"
    assert config["metadata"]["hook_name"] == SITE
    tensors = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "W_enc": (24, 60), "W_dec": (60, 24), "b_enc": (60,), "b_dec": (24,)
    }  # fmt: skip
    again = load(tmp_path / "sae")
    assert again.variant == variant
    assert again.metadata == sae.metadata
    for name in tensors:
        assert torch.equal(getattr(again, name), getattr(sae, name))


def test_foreign_files_are_read(tmp_path):
    sae = some(TopK(d_sae=60, k=4))
    save(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    config["metadata"].pop("heredity")
    config["apply_b_dec_to_input"] = False
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    tensors["b_enc"] = (
        tensors["b_enc"] - tensors["b_dec"] @ tensors["W_enc"]
    )  # the same function, written otherwise
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    again = load(tmp_path)
    x = torch.from_numpy(generator(1, "x").standard_normal((50, 24)).astype(np.float32))
    np.testing.assert_allclose(again.encode(x), sae.encode(x), atol=1e-5)


def test_unknown_and_broken_files_are_refused(tmp_path):
    with pytest.raises(StoreError, match="no such file"):
        load(tmp_path)
    save(some(TopK(d_sae=60, k=4)), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())

    def with_config(**changes):
        (tmp_path / "cfg.json").write_text(json.dumps({**config, **changes}))

    with_config(architecture="matryoshka")
    with pytest.raises(StoreError, match="'matryoshka' is not known"):
        load(tmp_path)
    with_config(d_sae=61)
    with pytest.raises(MismatchError, match=r"\(24, 60\), cfg.json says \(24, 61\)"):
        load(tmp_path)
    with_config(normalize_activations="layer_norm")
    with pytest.raises(StoreError, match="normalize_activations"):
        load(tmp_path)
    with_config()
    (tmp_path / "sae_weights.safetensors").write_bytes(b"\x08")
    with pytest.raises(StoreError, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(MismatchError, match="W_dec"):
        SAE(
            variant=TopK(d_sae=6, k=1), W_enc=torch.zeros(3, 6), W_dec=torch.zeros(3, 6),
            b_enc=torch.zeros(6), b_dec=torch.zeros(3),
        )  # fmt: skip


@pytest.fixture(scope="module")
def held_out():
    return pico(), stream(documents=2, contexts=3)


def identity(site_width):
    """An SAE that reconstructs exactly: +x and −x on separate latents."""
    eye = torch.eye(site_width)
    rows = torch.cat([eye, -eye])
    return SAE(variant=L1(d_sae=2 * site_width, l1=0.0), W_enc=rows.T.contiguous(), W_dec=rows,
               b_enc=torch.zeros(2 * site_width), b_dec=torch.zeros(site_width))  # fmt: skip


@pytest.mark.parametrize(("site", "width"), [(SITE, 24), (OUT, 16)])
def test_a_perfect_sae_costs_nothing(held_out, site, width):
    model, tokens = held_out
    got = quality(identity(width), model, tokens, site)
    assert got.fvu < 1e-10
    assert got.ce_recovered == pytest.approx(1, abs=1e-4)
    assert got.ce_sae == pytest.approx(got.ce_clean, abs=1e-5)
    assert got.l0 == pytest.approx(width, rel=0.01)
    assert got.dead_share == 0
    assert got.n_tokens == tokens.n_tokens


def test_quality_equals_the_formulas(held_out):
    model, tokens = held_out
    sae = some(TopK(d_sae=60, k=4))
    got = quality(sae, model, tokens, SITE, batch_tokens=64)
    ids = torch.from_numpy(tokens.blocks().astype(np.int64))
    seen = []
    proj = model.model.layers[0].mlp.down_proj

    def loss(edit):
        handle = proj.register_forward_pre_hook(lambda m, args: (edit(args[0]),))
        with torch.no_grad():
            value = model(input_ids=ids, labels=ids).loss
        handle.remove()
        return float(value)

    clean = loss(lambda x: seen.append(x) or x)
    x = seen[0].reshape(-1, 24)
    codes = sae.encode(x)
    again = sae.decode(codes)
    spliced, zero = loss(lambda x: again.reshape(x.shape)), loss(torch.zeros_like)
    assert got.ce_clean == pytest.approx(clean, rel=1e-5)
    assert got.ce_sae == pytest.approx(spliced, rel=1e-5)
    assert got.ce_zero == pytest.approx(zero, rel=1e-5)
    assert got.ce_recovered == pytest.approx((got.ce_zero - got.ce_sae) / (got.ce_zero - got.ce_clean))
    assert got.fvu == pytest.approx(
        float((x - again).square().sum() / (x - x.mean(dim=0)).square().sum()), rel=1e-4
    )
    assert got.l0 == pytest.approx(float((codes > 0).float().sum(dim=1).mean()))
    assert got.dead_share == pytest.approx(float((codes.sum(dim=0) == 0).float().mean()))
    assert got.ablation == "zero"


def test_the_curve_over_k(held_out):
    model, tokens = held_out
    sae = some(TopK(d_sae=60, k=4))
    curve = quality_curve(sae, model, tokens, SITE, [2, None, 8], ablation="mean")
    assert [q.k for q in curve] == [2, 4, 8]
    assert [q.l0 for q in curve] == pytest.approx([2, 4, 8], abs=0.1)
    assert curve[1].ablation == "mean"
    with pytest.raises(ConfigError, match="has no k"):
        quality_curve(some(L1(d_sae=60, l1=1.0)), model, tokens, SITE, [3])
    with pytest.raises(MismatchError, match="24 wide"):
        quality(some(TopK(d_sae=60, k=4), d_in=23), model, tokens, SITE)
