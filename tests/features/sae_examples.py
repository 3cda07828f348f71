"""One value of every SAE variant, by file name; contract tests run over all of them."""

import numpy as np
import torch

from heredity.features.sae import L1, SAE, BatchTopK, Crosscoder, Gated, JumpReLU, TopK
from heredity.features.sae._variant import Extended
from heredity.seeds import generator

SITE = "model.layers.0.mlp.down_proj:input"
EXAMPLES = {
    "batchtopk": BatchTopK(d_sae=60, k=4),
    "crosscoder": Crosscoder(d_sae=60, k=4, members=("base", "lua")),
    "gated": Gated(d_sae=60, l1=0.5),
    "jumprelu": JumpReLU(d_sae=60, l0=0.5, threshold=0.3),
    "l1": L1(d_sae=60, l1=0.5),
    "topk": TopK(d_sae=60, k=4),
}


def some(variant, d_in=24, seed=0):
    """An SAE with unit decoder rows and random everything else."""
    draw = generator(seed, "sae")
    rows = draw.standard_normal((variant.d_sae, d_in)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    def vector(n, size=0.1):
        return torch.from_numpy(draw.standard_normal(n).astype(np.float32)) * size

    b_enc, b_dec, extra = vector(variant.d_sae), vector(d_in), {}
    if isinstance(variant, Extended):
        extra = {
            name: vector(variant.d_sae).abs() + 0.3 if name == "threshold" else vector(variant.d_sae)
            for name in variant.extras
        }
    return SAE(
        variant=variant,
        W_enc=torch.from_numpy(rows.T.copy()),
        W_dec=torch.from_numpy(rows),
        b_enc=b_enc if variant.has_b_enc else torch.zeros(variant.d_sae),
        b_dec=b_dec,
        extra=extra,
        metadata={"member": "base", "site": SITE, "seed": 7, "context": 32},
    )


def formula(sae, x):
    """Codes of activations, as the papers write them."""
    tensors = {name: getattr(sae, name).numpy() for name in ("W_enc", "b_enc", "b_dec")}
    extra = {name: value.numpy() for name, value in sae.extra.items()}
    z = (x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    if isinstance(sae.variant, TopK):
        return np.where(z >= -np.sort(-z, axis=1)[:, [sae.variant.k - 1]], np.maximum(z, 0), 0)
    if isinstance(sae.variant, Gated):
        magnitude = np.maximum(z * np.exp(extra["r_mag"]) + extra["b_mag"], 0)
        return magnitude * (z + extra["b_gate"] > 0)
    if isinstance(sae.variant, L1):
        return np.maximum(z, 0)
    return z * (z > extra["threshold"])


def bits(sae):
    """Everything that a trained SAE says, as bytes."""
    tensors = [sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec, *sae.extra.values()]
    return [value.contiguous().numpy().tobytes() for value in tensors]
