"""Codes of variants whose latents fire above a threshold of their own."""

from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32
from numpy import ndarray
from torch import Tensor

from heredity.features.sae._variant import NO_EXTRA, Extended, Extra, Sparse
from heredity.kernels import threshold


class Thresholded(Extended, frozen=True, kw_only=True):
    """A variant whose finished SAE fires where a pre-activation is above its latent's `threshold`."""

    extras: ClassVar[tuple[str, ...]] = ("threshold",)

    def activate(self, pre: Float32[ndarray, "tokens d_sae"], extra: Extra = NO_EXTRA) -> Sparse:
        """Return the entries above their latent's threshold."""
        return above(pre, floor_of(extra["threshold"]))

    def activate_dense(
        self, pre: Float[Tensor, "tokens d_sae"], extra: Extra = NO_EXTRA
    ) -> Float[Tensor, "tokens d_sae"]:
        """Return the pre-activations with all that are not above their threshold set to 0."""
        return pre * (pre > extra["threshold"].clamp_min(0))

    @property
    def penalty(self) -> float:
        """0: no charge for Σ codes."""
        return 0.0


def above(pre: Float32[ndarray, "tokens d_sae"], low: Float32[ndarray, " d_sae"]) -> Sparse:
    """Return the entries above their latent's threshold, with their values."""
    indptr = np.zeros(len(pre) + 1, np.int64)
    threshold.count_above(pre, low, indptr[1:])
    np.cumsum(indptr, out=indptr)
    indices, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    threshold.pack_above(pre, low, indptr, indices, values)
    return Sparse(indptr, indices, values)


def floor_of(threshold: Tensor) -> Float32[ndarray, " d_sae"]:
    """Return thresholds for `above`: codes are positive, so none is below 0."""
    low: Float32[ndarray, " d_sae"] = np.maximum(threshold.detach().cpu().numpy(), np.float32(0))
    return low
