"""Inner products of one tensor and its difference from another, straight from raw bytes.

What `gram` does for any number of rows in register tiles of 4 × 4, for the two rows that are most common, with a
fifth of the products. Within a chunk of 1024 elements sums are float32; across chunks they are float64.
"""

import numpy as np
from numba import njit

from heredity.kernels.decode import bits_of_float
from heredity.kernels.gram import CHUNK, load


@njit(cache=True, nogil=True)
def add_pair(raw, codes, start, stop, rows, found, seen):  # type: ignore[no-untyped-def]
    """Add ⟨w, w⟩, ⟨w, Δ⟩, ⟨Δ, Δ⟩, Σw, ΣΔ of elements [start, stop) to `found`; w is row 0, w + Δ row 1.

    Args:
        raw: uint8[2, at least stop · bytes per element], rows aligned.
        codes: int64[2], formats as in `decode.CODES`.
        start: first element.
        stop: element after the last one.
        rows: float32[2, 1024] to work in.
        found: float64[5].
        seen: uint32[2]: the bits of all magnitudes of w and of Δ, or-ed; 0 where all are zero.
    """
    for low in range(start, stop, CHUNK):
        width = min(CHUNK, stop - low)
        load(raw, codes, low, width, rows)
        multiply(rows[0, :width], rows[1, :width], found, seen)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def multiply(w, d, found, seen):  # type: ignore[no-untyped-def]
    """Add one chunk's products and sums; vector lanes may be summed apart, NaN and inf keep their meaning."""
    zero = np.float32(0)
    ww = wd = dd = sum_w = sum_d = zero
    bits_w = bits_d = np.uint32(0)
    for e in range(w.size):
        x, y = w[e], d[e]
        ww += x * x
        wd += x * y
        dd += y * y
        sum_w += x
        sum_d += y
        bits_w |= bits_of_float(x) & np.uint32(0x7FFFFFFF)
        bits_d |= bits_of_float(y) & np.uint32(0x7FFFFFFF)
    found[0] += ww
    found[1] += wd
    found[2] += dd
    found[3] += sum_w
    found[4] += sum_d
    seen[0] |= bits_w
    seen[1] |= bits_d
