"""What fires where a batch shares its latents out: the k·B largest pre-activations of B tokens.

Source: Bussmann et al. 2024 (arXiv 2412.06410).
"""

from typing import Annotated, Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from msgspec import Meta, convert
from numpy import ndarray
from torch import Tensor

from heredity.features.backward import Parameters, Step, add_gradients
from heredity.features.sae._threshold import Thresholded, above
from heredity.features.sae._variant import Extra, Sparse

_MEMORY = 0.05
"""Share of the newest batch in the running mean: it looks back on about 20 batches."""


class OfBatch(Thresholded, frozen=True, kw_only=True):
    """A variant trained on the k·B largest of a batch; dead latents explain what the live ones leave over.

    A finished SAE fires above one threshold, the running mean of the smallest activation that batches kept.

    Attributes:
        k: latents per token, on average.
        revive: dead latents per token that explain the residual; 0 switches revival off.
    """

    k: Annotated[int, Meta(ge=1)]
    revive: Annotated[int, Meta(ge=0)] = 64

    def first_codes(self, pre: Float32[Tensor, "tokens d_sae"]) -> Float32[Tensor, "tokens d_sae"]:
        """Return the largest entries of the batch."""
        return largest_codes(pre, self.k)

    def begin(
        self, extra: Extra | None = None, scale: Float32[Tensor, " d_sae"] | None = None
    ) -> Float32[Tensor, "1 d_sae"]:
        """Return the running mean of the smallest activation kept, in every latent's place; −1: unknown."""
        if extra is None or scale is None:
            return torch.full((1, self.d_sae), -1.0)
        return (extra["threshold"].cpu() * scale).mean().expand(1, self.d_sae).clone()

    def finish(self, rows: Float32[Tensor, "1 d_sae"], scale: float) -> dict[str, Tensor]:
        """Return the threshold of every latent, which is the same one."""
        return {"threshold": rows[0] / scale}

    def add_gradients(
        self,
        p: Parameters,
        x: Float32[Tensor, "tokens d_in"],
        gradients: Parameters,
        *,
        progress: float,
        dead: Bool[ndarray, " d_sae"] | None = None,
        dense: bool = False,
    ) -> Step:
        """Add the gradients of squared error and revival, and take the batch into the running mean."""
        before = float(p.extra[0, 0])
        largest = _Largest(self.k, self.revive, before)
        seen = add_gradients(largest, p, x, gradients, dead=dead, dense=dense)
        p.extra[0] = largest.smallest if before < 0 else before + _MEMORY * (largest.smallest - before)
        return seen

    @classmethod
    def read(cls, config: dict[str, Any], own: dict[str, Any] | None) -> Self:
        """Return the variant that was written; another tool's file does not say that it was one."""
        return convert(own, cls)

    @property
    def aux_k(self) -> int:
        """The auxiliary loss's k."""
        return self.revive


class _Largest:
    """Which pre-activations of one batch fire, and the smallest that did."""

    def __init__(self, k: int, revive: int, guess: float) -> None:
        self.k, self.aux_k, self.guess, self.smallest = k, revive, guess, 0.0

    def activate(self, pre: Float32[ndarray, "tokens d_sae"]) -> Sparse:
        self.smallest = smallest_kept(pre, self.k * len(pre), self.guess)
        cut = np.float32(self.smallest)
        low = np.nextafter(cut, np.float32(-1)) if cut > 0 else cut  # all that equal the smallest fire, too
        return above(pre, np.full(pre.shape[1], low, np.float32))

    def activate_dense(self, pre: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_sae"]:
        codes = largest_codes(pre, self.k)
        kept = codes[codes > 0]
        self.smallest = float(kept.min()) if len(kept) else 0.0
        return codes


def largest_codes(pre: Float[Tensor, "tokens d_sae"], k: int) -> Float[Tensor, "tokens d_sae"]:
    """Return a batch's pre-activations with all but the k·B largest positive ones set to 0."""
    n = min(k * len(pre), pre.numel())
    cut = pre.flatten().topk(n, sorted=False).values.min().clamp_min(torch.finfo(pre.dtype).tiny)
    return pre * (pre >= cut)


def smallest_kept(pre: Float32[ndarray, "tokens d_sae"], n: int, guess: float) -> float:
    """Return the n-th largest positive entry; the smallest when there are fewer, 0 when there is none.

    Args:
        pre: any matrix.
        n: how many are kept.
        guess: near the answer or not, the answer is the same; a good one is faster.
    """
    flat = pre.reshape(-1)
    large = flat[flat > np.float32(max(0.8 * guess, 0))]
    if len(large) < n and guess > 0:
        large = flat[flat > 0]
    if len(large) <= n:
        return float(large.min()) if len(large) else 0.0
    return float(np.partition(large, len(large) - n)[len(large) - n])
