"""ReLU codes latent by latent, `[latents, tokens]`: one pass forward, one backward, in place.

Sums are taken in an order that is written down here. Left to the compiler (fastmath), the order of a kernel with
parallel loops is one when it was just compiled and another when it comes from numba's cache, and so would be the
last bits of the weights.
"""

import numpy as np
from numba import njit, prange
from numpy import ndarray

_LANES = 32


@njit(cache=True)
def add_up(row: ndarray) -> np.float32:
    """Add up a row in 32 lanes, and these one after the other."""
    lanes = np.zeros(_LANES, np.float32)
    whole = row.shape[0] // _LANES * _LANES
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            lanes[lane] += row[start + lane]
    total = np.float32(0)
    for lane in range(_LANES):
        total += lanes[lane]
    for t in range(whole, row.shape[0]):
        total += row[t]
    return total


@njit(cache=True, parallel=True)
def rectify(pre: ndarray, bias: ndarray, counts: ndarray, sums: ndarray) -> None:
    """Turn products into codes, max(0, product + bias), and count and add up the positive ones of each row."""
    for j in prange(pre.shape[0]):
        row, own = pre[j], bias[j]
        count = np.int32(0)
        for t in range(row.shape[0]):
            value = row[t] + own
            fires = value > 0
            row[t] = value if fires else np.float32(0)
            count += fires
        counts[j] = count
        sums[j] = add_up(row)


@njit(cache=True, parallel=True)
def rectify_back(codes: ndarray, slope: ndarray, penalty: float, sums: ndarray) -> None:
    """Turn gradients of the loss at the codes into those at the products; add them up by row."""
    for j in prange(codes.shape[0]):
        row, down = codes[j], slope[j]
        for t in range(row.shape[0]):
            value = down[t] + np.float32(penalty)
            down[t] = value if row[t] > 0 else np.float32(0)
        sums[j] = add_up(down)
