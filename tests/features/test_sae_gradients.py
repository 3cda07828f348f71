"""Gradients of variants with weights of their own, against the papers' losses differentiated by torch."""

import numpy as np
import pytest
import torch

from heredity.features.backward import AUX, Parameters
from heredity.features.initialise import random_parameters
from heredity.features.sae import BatchTopK, Crosscoder, Gated, JumpReLU
from heredity.features.sae.jumprelu import _Jump
from heredity.seeds import generator

TOKENS, D_IN, D_SAE = 200, 24, 96


class Smoothed(torch.autograd.Function):
    """Step(z − θ) or z · step(z − θ), with the rectangle's slope for θ (arXiv 2407.14435, eq. 11 and 12)."""

    @staticmethod
    def forward(ctx, z, theta, bandwidth, with_value):
        ctx.save_for_backward(z, theta)
        ctx.bandwidth, ctx.with_value = bandwidth, with_value
        fires = (z > theta).float()
        return z * fires if with_value else fires

    @staticmethod
    def backward(ctx, out):
        z, theta = ctx.saved_tensors
        near = ((z - theta).abs() < ctx.bandwidth / 2).float() / ctx.bandwidth
        height = theta if ctx.with_value else 1.0
        to_z = (z > theta).float() * out if ctx.with_value else None
        return to_z, -(near * height * out).sum(dim=0), None, None


def revival(p, pre, decoder, error, dead, k):
    names = torch.from_numpy(np.flatnonzero(dead))
    top = pre[:, names].topk(k, dim=-1)
    revived = torch.zeros_like(pre).scatter(-1, names[top.indices], top.values.relu())
    return AUX * (revived @ decoder + error.detach()).square().sum()


def jumprelu_loss(v, p, x, dead):
    z, theta = (x - p.b_dec) @ p.encoder.T + p.b_enc, p.extra[0].exp()
    error = Smoothed.apply(z, theta, v.bandwidth, True) @ p.decoder + p.b_dec - x
    loss = error.square().sum() + v.l0 * Smoothed.apply(z, theta, v.bandwidth, False).sum()
    return loss + (revival(p, z, p.decoder, error, dead, v.revive) if dead is not None else 0)


def gated_loss(v, p, x, _):
    z = (x - p.b_dec) @ p.encoder.T
    gate, magnitude = z + p.extra[0], z * p.extra[1].exp() + p.extra[2]
    codes = (gate > 0) * magnitude.relu()
    error = codes @ p.decoder + p.b_dec - x
    frozen = gate.relu() @ p.decoder.detach() + p.b_dec.detach() - x
    return error.square().sum() + v.l1 * gate.relu().sum() + frozen.square().sum()


def batchtopk_loss(v, p, x, dead):
    z = ((x - p.b_dec) @ p.encoder.T + p.b_enc).relu()
    cut = z.flatten().topk(round(v.k * len(x))).values.min()
    error = (z * (z >= cut)) @ p.decoder + p.b_dec - x
    pre = (x - p.b_dec) @ p.encoder.T + p.b_enc
    return error.square().sum() + (
        revival(p, pre, p.decoder, error, dead, v.revive) if dead is not None else 0
    )


CASES = [
    (JumpReLU(d_sae=D_SAE, l0=0.7, threshold=0.4, bandwidth=0.6, revive=7), jumprelu_loss),
    (Gated(d_sae=D_SAE, l1=0.3), gated_loss),
    (BatchTopK(d_sae=D_SAE, k=4, revive=7), batchtopk_loss),
    (Crosscoder(d_sae=D_SAE, k=4, revive=7, members=("a", "b")), batchtopk_loss),
]


@pytest.mark.parametrize("with_dead", [False, True])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("variant", "loss"), CASES)
def test_gradients_equal_autograd(variant, loss, dense, with_dead):
    draw = generator(1, "x")
    p = random_parameters(D_IN, D_SAE, np.linspace(-1, 1, D_IN), 0)
    p.b_enc += torch.linspace(-0.5, 0.5, D_SAE) * (not isinstance(variant, Gated))
    rows = variant.begin()
    noise = torch.from_numpy(draw.standard_normal(rows.shape).astype(np.float32)) * 0.3
    p.extra = rows + noise * (not isinstance(variant, BatchTopK | Crosscoder))
    x = torch.from_numpy(draw.standard_normal((TOKENS, D_IN)).astype(np.float32)) * 2
    dead = np.arange(D_SAE) % 4 == 0 if with_dead else None
    q = Parameters(*(getattr(p, name).clone().requires_grad_() for name in p.__struct_fields__))
    want = loss(variant, q, x, dead) / x.numel()
    want.backward()
    got = p.zeros()
    seen = variant.add_gradients(p, x, got, progress=1.0, dead=dead, dense=dense)
    assert seen.loss == pytest.approx(float(want.detach()), rel=1e-5)
    for name in p.__struct_fields__:
        gradient = getattr(q, name).grad
        if gradient is None:
            assert not getattr(got, name).any()
            continue
        for mine, theirs in (
            zip(getattr(got, name), gradient, strict=True)
            if name == "extra"
            else [(getattr(got, name), gradient)]
        ):
            scale = float(theirs.abs().max())
            assert scale > 0 or not mine.any()
            np.testing.assert_allclose(mine, theirs, atol=1e-5 * scale, err_msg=name)


def test_the_edge_is_found_alike_on_other_devices():
    variant = CASES[0][0]
    p = random_parameters(D_IN, D_SAE, np.zeros(D_IN), 0)
    x = torch.from_numpy(generator(2, "x").standard_normal((TOKENS, D_IN)).astype(np.float32))
    pre, theta = (x - p.b_dec) @ p.encoder.T, torch.linspace(0.2, 0.8, D_SAE)
    gathered, dense = _Jump(variant, theta), _Jump(variant, theta)
    codes = gathered.activate_dense(pre)
    dense.dense = codes.clone(), (pre - theta).abs() < dense.half  # what activate_dense keeps off the CPU
    for one, other in zip(gathered.at_the_edge(p, x), dense.at_the_edge(p, x), strict=True):
        assert float(other.abs().max()) > 0
        np.testing.assert_allclose(one, other, atol=1e-4)
