"""The gradients of ReLU codes on the CPU where many latents fire: five dense products, and little else.

Everything is kept latent by latent, codes as [d_sae, tokens]: no large matrix is ever transposed, and biases,
ReLU and sums are taken while a group of latents is in the cache. The loss is that of backward.py.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float32
from msgspec import Struct
from numpy import ndarray
from torch import Tensor

from heredity.features.product import by_rows
from heredity.kernels import rectify

if TYPE_CHECKING:
    from heredity.features.backward import Parameters

_LATENTS = 1024


class Seen(Struct, frozen=True):
    """What one forward pass saw: Σ‖x − x̂‖², Σ f, firings, and which latents fired."""

    squared_error: float
    sum_codes: float
    n_codes: int
    fired: Bool[ndarray, " d_sae"]


def add_rectified(
    p: "Parameters", x: Float32[Tensor, "tokens d_in"], gradients: "Parameters", penalty: float
) -> Seen:
    """Add the gradients of (Σ‖x̂ − x‖² + penalty · Σ f) / x.numel() for one batch, f = ReLU(pre)."""
    d_sae = len(p.b_enc)
    groups = [slice(start, start + _LATENTS) for start in range(0, d_sae, _LATENTS)]
    centred = x - p.b_dec
    codes = []
    made = (p.b_dec[:, None] - x.T).contiguous()  # [d_in, tokens]; becomes x̂ − x
    counts, sums = np.empty(d_sae, np.int64), np.empty(d_sae, np.float32)
    for here in groups:
        product = by_rows(p.encoder[here], centred)
        rectify.rectify(product.numpy(), p.b_enc[here].numpy(), counts[here], sums[here])
        made += by_rows(p.decoder[here].T, product.T)
        codes.append(product)

    squared = sum(float(part.square().sum()) for part in made.split(64))
    made *= 2 / x.numel()
    error = made.T
    bias = np.empty(d_sae, np.float32)
    for here, mine in zip(groups, codes, strict=True):
        gradients.decoder[here] += by_rows(mine, made)
        slope = by_rows(p.decoder[here], error)
        rectify.rectify_back(mine.numpy(), slope.numpy(), penalty / x.numel(), bias[here])
        gradients.encoder[here] += by_rows(slope, centred.T)
    gradients.b_enc += torch.from_numpy(bias)
    gradients.b_dec += (
        made.sum(dim=1) - torch.from_numpy(bias) @ p.encoder
    )  # x enters the encoder as x − b_dec
    return Seen(squared, float(sums.sum(dtype=np.float64)), int(counts.sum()), counts > 0)
