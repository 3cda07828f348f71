"""The exact k largest of every row of a product that is known only in bfloat16, from bounds of its error.

With x̂, ŵ the roundings of x, w, and v the rounded product, |v − x · w| is by Cauchy–Schwarz at most

    ε = ‖x‖ reach(w) + h |v|,    reach(w) = max_x (‖x − x̂‖ / ‖x‖) ‖w‖ + 1.01 ‖w − ŵ‖ + g ‖w‖

where g bounds the sums' own rounding, h the output's. k latents are at least the k-th largest of
(v + b − ε), so whatever has a smaller v + b + ε is not among the k largest. The rest is computed in float32:
first what must come near the top, then what could still be above the k-th largest of those.
"""

import numpy as np
from numba import njit, prange
from numpy import ndarray

from heredity.kernels.decode import float_of_bits
from heredity.kernels.sparse import TINY, lanes_of, reaching, sift_down

_SAFETY = np.float32(1.001)  # for the rounding of the bounds themselves


@njit(cache=True, parallel=True, fastmath=True)
def rounding(rows: ndarray, bits: ndarray, norm: ndarray, error: ndarray) -> None:
    """Measure how far rows are from their roundings.

    Args:
        rows: float32 [n, d].
        bits: the same rounded to bfloat16, uint16 [n, d].
        norm: out, float32 [n], ‖row‖ or a little more.
        error: out, float32 [n], ‖row − rounded‖ or a little more.
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
        error[j] = _SAFETY * np.sqrt(off)


@njit(cache=True, parallel=True)
def top_rows(
    bits: ndarray, latents: ndarray, bias: ndarray, reach: ndarray, x: ndarray, x_norm: ndarray, rows: ndarray,
    output: float, k: int,
    indices: ndarray, values: ndarray, counts: ndarray, nominated: ndarray,
) -> None:  # fmt: skip
    """Write the at most k largest positive entries of each row of x · rowsᵀ + bias, by ascending column.

    Args:
        bits: x̂ · ŵ rounded to bfloat16, uint16 [tokens, n].
        latents: the row of `rows` that each column stands for, int32 [n].
        bias: of each column, float32 [n].
        reach: float32 [n]; a product is at most x_norm · reach from its rounding, before that is rounded too.
        x, x_norm: float32 [tokens, d_in], [tokens].
        rows: float32 [d_sae, d_in].
        output: share of a product that rounding it may take away or add.
        k: entries kept per row.
        indices, values, counts: out, int32 and float32 [tokens, k], int64 [tokens].
        nominated: out, int64 [tokens], how many were computed in float32; −1: one was outside its bound.
    """
    n = bits.shape[1]
    lanes = lanes_of(n, k)
    for t in prange(bits.shape[0]):
        low, high = np.zeros(lanes, np.float32), np.empty(n, np.float32)
        for start in range(0, n, lanes):
            part = slice(start, min(start + lanes, n))
            _bound(bits[t, part], bias[part], reach[part], x_norm[t], output, low, high[part])
        heap = np.zeros(k, np.float32)
        for lane in range(lanes):
            if low[lane] > heap[0]:
                sift_down(heap, low[lane])
        least = heap[0]  # k exact values are at least as large, or it is 0
        nominees = reaching(high, max(least, TINY))
        found = nominees.shape[0]

        exact = np.full(found, -1, np.float32)
        heap[:] = 0
        computed = 0
        for second in (False, True):
            for s in range(found):
                j = nominees[s]
                v = _product(bits[t, j])
                spread = _spread(v, x_norm[t], reach[j], output)
                near = v + bias[j] - spread >= least
                if second == near or (second and v + bias[j] + spread < heap[0]):
                    continue
                product = _dot(x[t], rows[latents[j]])
                if not abs(product - v) <= spread:
                    computed = -n
                computed += 1
                exact[s] = product + bias[j]
                if exact[s] > heap[0]:
                    sift_down(heap, exact[s])
        nominated[t] = max(computed, -1)

        cut = heap[0]
        room = k  # for those that equal the smallest one kept
        for s in range(found):
            room -= exact[s] > cut
        kept = 0
        for s in range(found):
            if exact[s] > cut or (exact[s] == cut and cut > 0 and room > 0):
                room -= exact[s] == cut
                indices[t, kept] = nominees[s]
                values[t, kept] = exact[s]
                kept += 1
        counts[t] = kept


@njit(cache=True, fastmath={"contract"})
def _bound(
    bits: ndarray, bias: ndarray, reach: ndarray, x_norm: float, output: float, low: ndarray, high: ndarray
) -> None:
    """Write the upper bounds of a stretch of columns; take their lower ones into the largest of each lane."""
    for j in range(bits.shape[0]):
        v = _product(bits[j])
        spread = _spread(v, x_norm, reach[j], output)
        low[j] = max(low[j], v + bias[j] - spread)
        high[j] = v + bias[j] + spread


@njit(cache=True, inline="always")
def _product(bits):  # type: ignore[no-untyped-def]
    return float_of_bits(np.uint32(bits) << np.uint32(16))


@njit(cache=True, fastmath={"contract"}, inline="always")
def _spread(v, x_norm, reach, output):  # type: ignore[no-untyped-def]
    """Return ε: a bound of the difference between a product and its rounding v."""
    return x_norm * reach + output * abs(v)


@njit(cache=True, fastmath={"contract", "reassoc"})
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for c in range(a.shape[0]):
        total += a[c] * b[c]
    return total
