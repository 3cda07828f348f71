"""Inner products of one tensor and its difference from another, straight from raw bytes.

What `gram` does for any number of rows, for the two that are most common: two bf16 tensors are decoded, subtracted
and multiplied in registers. Within a chunk of 1024 elements sums are float32; across chunks they are float64.
"""

import numpy as np
from numba import njit

from heredity.kernels.decode import CODES, float_of_bits
from heredity.kernels.gram import CHUNK, REASSOCIATE, load

_BF16 = CODES["BF16"]


@njit(cache=True, nogil=True)
def add_pair(raw, codes, start, stop, rows, found):  # type: ignore[no-untyped-def]
    """Add ⟨w, w⟩, ⟨w, Δ⟩, ⟨Δ, Δ⟩, Σw, ΣΔ of elements [start, stop) to `found`; w is row 0, w + Δ row 1.

    Args:
        raw: uint8[2, at least stop · bytes per element], rows aligned.
        codes: int64[2], formats as in `decode.CODES`.
        start: first element.
        stop: element after the last one.
        rows: float32[2, 1024] to work in.
        found: float64[5].
    """
    if codes[0] == _BF16 and codes[1] == _BF16:
        a, b = raw[0][2 * start : 2 * stop].view(np.uint16), raw[1][2 * start : 2 * stop].view(np.uint16)
        for low in range(0, a.size, CHUNK):
            multiply_bf16(a[low : low + CHUNK], b[low : low + CHUNK], found)
        return
    for low in range(start, stop, CHUNK):
        width = min(CHUNK, stop - low)
        load(raw, codes, low, width, rows)
        multiply(rows[0, :width], rows[1, :width], found)


@njit(cache=True, nogil=True, fastmath=REASSOCIATE)
def multiply_bf16(a, b, found):  # type: ignore[no-untyped-def]
    """Add the products and sums of one chunk of two tensors, given as the bits of bf16."""
    ww = wd = dd = sum_w = sum_d = np.float32(0)
    for e in range(a.size):
        x = float_of_bits(np.uint32(a[e]) << np.uint32(16))
        y = float_of_bits(np.uint32(b[e]) << np.uint32(16)) - x
        ww += x * x
        wd += x * y
        dd += y * y
        sum_w += x
        sum_d += y
    found[0] += ww
    found[1] += wd
    found[2] += dd
    found[3] += sum_w
    found[4] += sum_d


@njit(cache=True, nogil=True, fastmath=REASSOCIATE)
def multiply(w, d, found):  # type: ignore[no-untyped-def]
    """Add the products and sums of one chunk of a tensor and a difference from it."""
    ww = wd = dd = sum_w = sum_d = np.float32(0)
    for e in range(w.size):
        x, y = w[e], d[e]
        ww += x * x
        wd += x * y
        dd += y * y
        sum_w += x
        sum_d += y
    found[0] += ww
    found[1] += wd
    found[2] += dd
    found[3] += sum_w
    found[4] += sum_d
