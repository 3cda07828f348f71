"""The exact k largest of every row of a product that is known only in bfloat16, from bounds of its error.

With x̂, ŵ the roundings of x, w, and v the rounded product, |v + b − (x · w + b)| is at most

    ε = ‖x − x̂‖ ‖w‖ + ‖x̂‖ ‖w − ŵ‖ + g ‖x̂‖ ‖w‖ + h |v|

by Cauchy–Schwarz; g bounds the sums' own rounding, h the output's. k latents are at least the k-th largest of
(v + b − ε), so whatever has a smaller v + b + ε is not among the k largest. The rest is computed in float32.
"""

import numpy as np
from numba import njit, prange
from numpy import ndarray

from heredity.kernels.decode import float_of_bits
from heredity.kernels.sparse import sift_down

_BLOCK = 32
_SAFETY = np.float32(1.001)  # for the rounding of the bounds themselves


@njit(cache=True, parallel=True, fastmath=True)
def rounding(rows: ndarray, bits: ndarray, slack: float, norm: ndarray, error: ndarray) -> None:
    """Measure how far rows are from their roundings.

    Args:
        rows: float32 [n, d].
        bits: the same rounded to bfloat16, uint16 [n, d].
        slack: added to `error` in units of the norm.
        norm: out, float32 [n], ‖row‖.
        error: out, float32 [n], ‖row − rounded‖ + slack · ‖row‖.
    """
    for j in prange(rows.shape[0]):
        row, rounded = rows[j], bits[j]
        square = np.float32(0)
        off = np.float32(0)
        for c in range(row.shape[0]):
            difference = row[c] - float_of_bits(np.uint32(rounded[c]) << np.uint32(16))
            square += row[c] * row[c]
            off += difference * difference
        norm[j] = _SAFETY * np.sqrt(square)
        error[j] = _SAFETY * (np.sqrt(off) + np.float32(slack) * np.sqrt(square))


@njit(cache=True, fastmath={"contract"}, inline="always")
def _spread(value, x_error, x_norm, norm, error, output):  # type: ignore[no-untyped-def]
    return x_error * norm + x_norm * error + output * abs(value)


@njit(cache=True, fastmath={"contract"})
def _guaranteed(
    bits: ndarray, bias: ndarray, norm: ndarray, error: ndarray, x_error: float, x_norm: float, output: float,
    strided: ndarray, heap: ndarray,
) -> float:  # fmt: skip
    """Return a number that at least k exact values reach, 0 if there may be none; k is the heap's length.

    It is the k-th largest of the lower bounds' maxima over strided groups, in a lane of the loop each.
    """
    n, lanes = bits.shape[0], strided.shape[0]
    strided[:] = 0
    for start in range(0, n, lanes):
        for lane in range(min(lanes, n - start)):
            j = start + lane
            value = float_of_bits(np.uint32(bits[j]) << np.uint32(16))
            low = value + bias[j] - _spread(value, x_error, x_norm, norm[j], error[j], output)
            strided[lane] = low if low > strided[lane] else strided[lane]
    heap[:] = 0
    for lane in range(lanes):
        if strided[lane] > heap[0]:
            sift_down(heap, strided[lane])
    return heap[0]


@njit(cache=True, fastmath={"contract"})
def _possible(
    bits: ndarray, bias: ndarray, norm: ndarray, error: ndarray, x_error: float, x_norm: float, output: float,
    least: float, out: ndarray,
) -> int:  # fmt: skip
    """List the entries that may be positive and reach `least`, ascending; return how many."""
    n = bits.shape[0]
    found = 0
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        hits = 0
        for j in range(start, stop):
            value = float_of_bits(np.uint32(bits[j]) << np.uint32(16))
            high = value + bias[j] + _spread(value, x_error, x_norm, norm[j], error[j], output)
            hits += (high >= least) & (high > 0)
        if hits:
            for j in range(start, stop):
                value = float_of_bits(np.uint32(bits[j]) << np.uint32(16))
                high = value + bias[j] + _spread(value, x_error, x_norm, norm[j], error[j], output)
                if (high >= least) & (high > 0):
                    out[found] = j
                    found += 1
    return found


@njit(cache=True, fastmath={"contract", "reassoc"})
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for c in range(a.shape[0]):
        total += a[c] * b[c]
    return total


@njit(cache=True, parallel=True)
def top_rows(
    bits: ndarray, latents: ndarray, bias: ndarray, norm: ndarray, error: ndarray,
    x: ndarray, x_norm: ndarray, x_error: ndarray, rows: ndarray, output: float, k: int,
    indices: ndarray, values: ndarray, counts: ndarray, nominated: ndarray,
) -> None:  # fmt: skip
    """Write the at most k largest positive entries of each row of x · rowsᵀ + bias, by ascending column.

    Args:
        bits: x̂ · ŵ rounded to bfloat16, uint16 [tokens, n].
        latents: the row of `rows` that each column stands for, int32 [n].
        bias, norm, error: of each column, float32 [n]; the last two as `rounding` measures them.
        x: float32 [tokens, d_in]; x_norm, x_error: as `rounding` measures them.
        rows: float32 [d_sae, d_in].
        output: share of a product that rounding it may take away or add.
        k: entries kept per row.
        indices, values, counts: out, int32 and float32 [tokens, k], int64 [tokens].
        nominated: out, int64 [tokens], how many were computed in float32; −1: one was outside its bound.
    """
    n = bits.shape[1]
    lanes = min(n, max(n // 16, 4 * k))
    for t in prange(bits.shape[0]):
        heap = np.empty(k, np.float32)
        possible = np.empty(n, np.int32)
        least = _guaranteed(
            bits[t], bias, norm, error, x_error[t], x_norm[t], output, np.empty(lanes, np.float32), heap
        )
        found = _possible(bits[t], bias, norm, error, x_error[t], x_norm[t], output, least, possible)
        exact = np.empty(found, np.float32)
        heap[:] = 0
        nominated[t] = found
        for s in range(found):
            j = possible[s]
            product = _dot(x[t], rows[latents[j]])
            value = float_of_bits(np.uint32(bits[t, j]) << np.uint32(16))
            if not abs(product - value) <= _spread(value, x_error[t], x_norm[t], norm[j], error[j], output):
                nominated[t] = -1
            exact[s] = product + bias[j]
            if exact[s] > heap[0]:
                sift_down(heap, exact[s])
        cut = heap[0]
        room = k
        for s in range(found):
            room -= exact[s] > cut
        kept = 0
        for s in range(found):
            if exact[s] > cut or (exact[s] == cut and cut > 0 and room > 0):
                room -= exact[s] == cut
                indices[t, kept] = possible[s]
                values[t, kept] = exact[s]
                kept += 1
        counts[t] = kept
