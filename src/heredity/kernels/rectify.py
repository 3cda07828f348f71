"""ReLU codes latent by latent, `[latents, tokens]`: one pass forward, one backward, in place."""

import numpy as np
from numba import njit, prange
from numpy import ndarray


@njit(cache=True, parallel=True, fastmath=True)
def rectify(pre: ndarray, bias: ndarray, counts: ndarray, sums: ndarray) -> None:
    """Turn products into codes, max(0, product + bias), and count and add up the positive ones of each row."""
    for j in prange(pre.shape[0]):
        row, own = pre[j], bias[j]
        count = np.int32(0)
        total = np.float32(0)
        for t in range(row.shape[0]):
            value = max(row[t] + own, np.float32(0))
            row[t] = value
            total += value
            count += value > 0
        counts[j] = count
        sums[j] = total


@njit(cache=True, parallel=True, fastmath=True)
def rectify_back(codes: ndarray, slope: ndarray, penalty: float, sums: ndarray) -> None:
    """Turn gradients of the loss at the codes into those at the products; add them up by row."""
    for j in prange(codes.shape[0]):
        row, down = codes[j], slope[j]
        total = np.float32(0)
        for t in range(row.shape[0]):
            value = down[t] + np.float32(penalty) if row[t] > 0 else np.float32(0)
            down[t] = value
            total += value
        sums[j] = total
