"""Kernels over sparse codes: pick the top activations, decode by gathering rows, gradients, fused Adam.

Codes of a batch are kept as CSR: `indptr [tokens + 1]`, `indices [nnz]` (latent, ascending within a token)
and `values [nnz]`. Matrices of weights have one row per latent, `[d_sae, d_in]`, so every access is a
contiguous row. Source: the gradients are written out in features/backward.py; Adam: Kingma & Ba 2015.
"""

import math

import numpy as np
from numba import njit, prange
from numpy import ndarray

TINY = np.nextafter(np.float32(0), np.float32(1))


@njit(cache=True, fastmath=True)
def sift_down(heap: ndarray, value: float) -> None:
    """Replace the smallest entry, the root, of a min-heap and restore the heap."""
    size = heap.shape[0]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


@njit(cache=True)
def lanes_of(n: int, k: int) -> int:
    """Return in how many strided groups n numbers are looked at, so that k are the largest of groups of their own."""
    return min(n, max(n // 16, 4 * k))


@njit(cache=True, parallel=True)
def top_rows(pre: ndarray, k: int, indices: ndarray, values: ndarray, counts: ndarray) -> None:
    """Write the at most k largest positive entries of each row, by ascending column; `counts` says how many.

    The k-th largest of the maxima of strided groups is at most the k-th largest entry, and hardly less: few
    entries reach it, and only those are sorted out. Of equal entries, the first are kept.

    Args:
        pre: pre-activations, float32 [tokens, d_sae].
        k: entries kept per row.
        indices: out, int32 [tokens, k].
        values: out, float32 [tokens, k].
        counts: out, int64 [tokens].
    """
    n_tokens, width = pre.shape
    lanes = lanes_of(width, k)
    for t in prange(n_tokens):
        row = pre[t]
        most, heap = np.zeros(lanes, np.float32), np.zeros(k, np.float32)
        for start in range(0, width, lanes):
            _raise(row[start : min(start + lanes, width)], most)
        for lane in range(lanes):
            if most[lane] > heap[0]:
                sift_down(heap, most[lane])
        places = reaching(row, max(heap[0], TINY))
        heap[:] = 0
        for j in places:
            if row[j] > heap[0]:
                sift_down(heap, row[j])
        cut = heap[0]
        room = k  # for entries that equal the smallest one kept
        for j in places:
            room -= row[j] > cut
        n = 0
        for j in places:
            if row[j] > cut or (row[j] == cut and cut > 0 and room > 0):
                room -= row[j] == cut
                indices[t, n] = j
                values[t, n] = row[j]
                n += 1
        counts[t] = n


@njit(cache=True, fastmath=True)
def _raise(values: ndarray, most: ndarray) -> None:
    for j in range(values.shape[0]):
        most[j] = max(most[j], values[j])


@njit(cache=True)
def reaching(values: ndarray, least: float) -> ndarray:
    """Return the places of numbers that reach `least`, int32, ascending; made for few among many."""
    n = values.shape[0]
    marks = np.zeros((n + 7) // 8 * 8, np.uint8)
    for j in range(n):
        marks[j] = values[j] >= least
    words = marks.view(np.uint64)  # eight marks at a time
    found = 0
    for word in range(words.shape[0]):
        if words[word]:
            for j in range(8 * word, 8 * word + 8):
                found += marks[j]
    places = np.empty(found, np.int32)
    found = 0
    for word in range(words.shape[0]):
        if words[word]:
            for j in range(8 * word, 8 * word + 8):
                if marks[j]:
                    places[found] = j
                    found += 1
    return places


@njit(cache=True, parallel=True)
def count_positive(pre: ndarray, counts: ndarray) -> None:
    """Count the positive entries of each row of `pre [tokens, d_sae]` into `counts [tokens]`."""
    for t in prange(pre.shape[0]):
        n = 0
        for j in range(pre.shape[1]):
            n += pre[t, j] > 0
        counts[t] = n


@njit(cache=True, parallel=True)
def pack_positive(pre: ndarray, indptr: ndarray, indices: ndarray, values: ndarray) -> None:
    """Write the positive entries of each row of `pre` as CSR at the places that `indptr` names."""
    for t in prange(pre.shape[0]):
        at = indptr[t]
        for j in range(pre.shape[1]):
            if pre[t, j] > 0:
                indices[at] = j
                values[at] = pre[t, j]
                at += 1


@njit(cache=True, parallel=True)
def pack_slots(
    slot_indices: ndarray, slot_values: ndarray, indptr: ndarray, indices: ndarray, values: ndarray
) -> None:
    """Close the gaps of fixed slots `[tokens, k]` into CSR."""
    for t in prange(slot_indices.shape[0]):
        start = indptr[t]
        for s in range(indptr[t + 1] - start):
            indices[start + s] = slot_indices[t, s]
            values[start + s] = slot_values[t, s]


@njit(cache=True, parallel=True, fastmath=True)
def decode_rows(
    indptr: ndarray, indices: ndarray, values: ndarray, weight: ndarray, bias: ndarray, out: ndarray
) -> None:
    """out[t] = bias + Σ value · weight[latent], gathering only the rows of the latents that fire."""
    for t in prange(out.shape[0]):
        row = out[t]
        row[:] = bias
        for n in range(indptr[t], indptr[t + 1]):
            value = values[n]
            source = weight[indices[n]]
            for c in range(row.shape[0]):
                row[c] += value * source[c]


@njit(cache=True)
def by_latent(indptr: ndarray, indices: ndarray, d_sae: int) -> tuple[ndarray, ndarray, ndarray]:
    """Turn CSR into feature-major order.

    Returns:
        starts [d_sae + 1], the token of each entry, and the entry's place in the token-major arrays; tokens
        ascend within a latent.
    """
    starts = np.zeros(d_sae + 1, np.int64)
    for n in range(indices.shape[0]):
        starts[indices[n] + 1] += 1
    for j in range(d_sae):
        starts[j + 1] += starts[j]
    fill = starts[:-1].copy()
    tokens = np.empty(indices.shape[0], np.int32)
    places = np.empty(indices.shape[0], np.int64)
    for t in range(indptr.shape[0] - 1):
        for n in range(indptr[t], indptr[t + 1]):
            at = fill[indices[n]]
            tokens[at] = t
            places[at] = n
            fill[indices[n]] = at + 1
    return starts, tokens, places


@njit(cache=True, parallel=True)
def scatter(
    starts: ndarray, tokens: ndarray, places: ndarray, values: ndarray, penalty: float, error: ndarray,
    inputs: ndarray, decoder: ndarray, g_decoder: ndarray, g_encoder: ndarray, g_bias: ndarray,
) -> None:  # fmt: skip
    """Add the gradients that flow through some codes, latent by latent: every row is read once.

    Args:
        starts, tokens, places: the codes by latent, as `by_latent` returns them.
        values: the codes by token, float32 [nnz].
        penalty: gradient of the loss at every code, beside that of the error.
        error: gradient of the loss at x̂, float32 [tokens, d_in].
        inputs: of the encoder, float32 [tokens, d_in].
        decoder: float32 [d_sae, d_in].
        g_decoder, g_encoder: added to, float32 [d_sae, d_in]: Σ value · error, Σ slope · input.
        g_bias: out, float32 [d_sae]: Σ slope.
    """
    for j in prange(decoder.shape[0]):
        total = np.float32(0)
        for n in range(starts[j], starts[j + 1]):
            e = error[tokens[n]]
            slope = _dot(decoder[j], e) + np.float32(penalty)
            total += slope
            _add(values[places[n]], e, g_decoder[j])
            _add(slope, inputs[tokens[n]], g_encoder[j])
        g_bias[j] = total


@njit(cache=True, fastmath=True)
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for c in range(a.shape[0]):
        total += a[c] * b[c]
    return total


@njit(cache=True, fastmath=True)
def _add(factor, row, total):  # type: ignore[no-untyped-def]
    for c in range(total.shape[0]):
        total[c] += factor * row[c]


@njit(cache=True, parallel=True, fastmath=True)
def adam(
    weight: ndarray, gradient: ndarray, mean: ndarray, square: ndarray, step: int, rate: float,
    beta1: float, beta2: float, epsilon: float, unit_rows: bool,
) -> None:  # fmt: skip
    """One Adam step in place over rows `[rows, width]`; `gradient` is cleared for the next step.

    With `unit_rows`, the gradient's part along its row is removed first, and the row scaled back to norm 1
    after: the rows move on the sphere.
    """
    b1, b2 = np.float32(beta1), np.float32(beta2)
    c1, c2 = np.float32(1 - beta1), np.float32(1 - beta2)
    size = np.float32(rate / (1 - beta1**step))
    scale = np.float32(1 / math.sqrt(1 - beta2**step))
    eps = np.float32(epsilon)
    for j in prange(weight.shape[0]):
        w, g, m, v = weight[j], gradient[j], mean[j], square[j]
        along = np.float32(0)
        if unit_rows:
            for c in range(w.shape[0]):
                along += w[c] * g[c]
        norm = np.float32(0)
        for c in range(w.shape[0]):
            value = g[c] - along * w[c]
            m[c] = b1 * m[c] + c1 * value
            v[c] = b2 * v[c] + c2 * value * value
            w[c] -= size * m[c] / (np.sqrt(v[c]) * scale + eps)
            g[c] = 0
            norm += w[c] * w[c]
        if unit_rows:
            inverse = np.float32(1) / np.sqrt(norm)
            for c in range(w.shape[0]):
                w[c] *= inverse
