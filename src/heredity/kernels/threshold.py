"""Pick the entries of a matrix that are above their column's threshold, as CSR: codes of threshold SAEs.

And the products of tokens' rows with latents' rows at the entries of such codes.
"""

import numpy as np
from numba import njit, prange
from numpy import ndarray


@njit(cache=True, parallel=True)
def count_above(pre: ndarray, low: ndarray, counts: ndarray) -> None:
    """Count the entries of each row of `pre [tokens, d_sae]` above `low [d_sae]` into `counts [tokens]`."""
    for t in prange(pre.shape[0]):
        n = 0
        for j in range(pre.shape[1]):
            n += pre[t, j] > low[j]
        counts[t] = n


@njit(cache=True, parallel=True)
def pack_above(pre: ndarray, low: ndarray, indptr: ndarray, indices: ndarray, values: ndarray) -> None:
    """Write the entries of each row of `pre` above `low` as CSR at the places that `indptr` names."""
    for t in prange(pre.shape[0]):
        at = indptr[t]
        for j in range(pre.shape[1]):
            if pre[t, j] > low[j]:
                indices[at] = j
                values[at] = pre[t, j]
                at += 1


@njit(cache=True, parallel=True, fastmath=True)
def row_products(indptr: ndarray, indices: ndarray, rows: ndarray, weight: ndarray, out: ndarray) -> None:
    """out[n] = rows[t] · weight[latent] for every entry n of CSR codes, token t."""
    for t in prange(rows.shape[0]):
        row = rows[t]
        for n in range(indptr[t], indptr[t + 1]):
            source = weight[indices[n]]
            total = np.float32(0)
            for c in range(row.shape[0]):
                total += row[c] * source[c]
            out[n] = total
