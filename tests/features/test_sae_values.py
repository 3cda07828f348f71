import numpy as np
import pytest
import torch
from planted import stream
from sae_examples import EXAMPLES, formula, some
from test_harvest import OUT, SITE, pico

from heredity.errors import ConfigError, MismatchError
from heredity.features.evaluate import quality, quality_curve
from heredity.features.sae import L1, SAE, TopK, variants
from heredity.seeds import generator

VARIANTS = list(EXAMPLES.values())


def test_every_variant_file_is_tried_here():
    assert variants() == sorted(EXAMPLES)
    assert all(type(v).__name__.lower() == name for name, v in EXAMPLES.items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_sparse_and_dense_codes_agree_with_the_formula(variant):
    sae = some(variant)
    x = generator(1, "x").standard_normal((300, 24)).astype(np.float32)
    want = formula(sae, x)
    codes = sae.codes(x)
    assert 0.5 < len(codes.values) / 300 < 40
    assert (codes.values > 0).all()
    np.testing.assert_allclose(codes.dense(60), want, atol=1e-5)
    np.testing.assert_allclose(sae.encode(torch.from_numpy(x)), want, atol=1e-5)
    again, codes = sae.reconstruct(torch.from_numpy(x))
    assert again.shape == x.shape
    np.testing.assert_allclose(again, want @ sae.W_dec.numpy() + sae.b_dec.numpy(), atol=1e-5)
    np.testing.assert_allclose(again, sae.decode(torch.from_numpy(codes.dense(60))), atol=1e-5)
    assert sae.to("cpu").extra.keys() == sae.extra.keys()


def test_topk_with_few_positive_ones_and_ties():
    pre = np.array([[-1, -2, 0, -0.5], [2, 2, 2, 2], [0, 1, 0, 3], [np.inf, 1, 2, 3]], np.float32)
    codes = TopK(d_sae=4, k=2).activate(pre)
    assert np.diff(codes.indptr).tolist() == [0, 2, 2, 2]
    assert codes.indices.tolist() == [0, 1, 1, 3, 0, 3]
    assert codes.values.tolist() == [2, 2, 1, 3, np.inf, 3]


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
    with pytest.raises(ConfigError, match="k = 61 of an SAE with 60 latents"):
        quality_curve(sae, model, tokens, SITE, [61])
    with pytest.raises(MismatchError, match="24 wide"):
        quality(some(TopK(d_sae=60, k=4), d_in=23), model, tokens, SITE)
