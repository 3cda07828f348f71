"""Codes of variants whose latents fire above a threshold of their own."""

import numpy as np
from jaxtyping import Float32
from numpy import ndarray
from torch import Tensor

from heredity.features.sae._variant import Sparse
from heredity.kernels import threshold


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
