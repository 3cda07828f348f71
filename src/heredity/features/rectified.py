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
    from heredity.features.backward import Parameters, Sink


class Seen(Struct, frozen=True):
    """What one forward pass saw: Σ‖x − x̂‖², Σ f, firings, and which latents fired."""

    squared_error: float
    sum_codes: float
    n_codes: int
    fired: Bool[ndarray, " d_sae"]


def rectified_gradients(
    p: "Parameters", x: Float32[Tensor, "tokens d_in"], sink: "Sink", groups: list[slice], penalty: float
) -> Seen:
    """Send the gradients of (Σ‖x̂ − x‖² + penalty · Σ f) / x.numel() for one batch, f = ReLU(pre), to a sink."""
    d_sae = len(p.b_enc)
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
    sink.b_dec += made.sum(dim=1)
    for here, mine in zip(groups, codes, strict=True):
        room, bias = sink.room(here), torch.empty(len(mine))
        room.decoder.add_(by_rows(mine, made))
        slope = by_rows(p.decoder[here], error)
        rectify.rectify_back(mine.numpy(), slope.numpy(), penalty / x.numel(), bias.numpy())
        room.encoder.add_(by_rows(slope, centred.T))
        room.b_enc.add_(bias)
        sink.b_dec -= bias @ p.encoder[here]  # x enters the encoder as x − b_dec
        sink.done(here)
    return Seen(squared, float(sums.sum(dtype=np.float64)), int(counts.sum()), counts > 0)
