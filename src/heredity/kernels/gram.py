"""Inner products of a reference and K differences from it, straight from raw bytes.

Rows are multiplied in register tiles of 4 × 4. Every pair of rows goes through the same instructions in the
same order, so equal rows give equal bits, a negated row exact negatives, and the order of members changes
nothing. Within a chunk of 1024 elements sums are float32; across chunks they are float64.
"""

import numpy as np
from numba import njit

from heredity.kernels.decode import bits_of_float, decode_block

CHUNK = 1024
TILE = 4
DELTA = -1  # code of a row that already holds float32 differences from the reference
REASSOCIATE = {
    "reassoc",
    "contract",
    "nsz",
}  # vector lanes may be summed apart; NaN and inf keep their meaning


@njit(cache=True, nogil=True)
def add_gram(raw, codes, n, first, rows, products, sums, seen):  # type: ignore[no-untyped-def]
    """Add the inner products of n elements to `products`, the sums to `sums`.

    Args:
        raw: uint8[R, at least n · bytes per element]; row 0 is the reference, each row aligned.
        codes: int64[R], formats as in `decode.CODES`, or `DELTA`.
        n: number of elements.
        first: rows before this one are known already: pairs among them are skipped, but for the tiles on
            the diagonal, whose squares tell whether float32 was wide enough.
        rows: float32[R rounded up to a multiple of 4, 1024] to work in, zero in the rows of padding.
        products: float64[as rows, as rows]: the upper triangle of tiles is filled.
        sums: float64[as rows].
        seen: uint32[as rows]: the bits of all magnitudes, or-ed; 0 where a row is all zeros.
    """
    for start in range(0, n, CHUNK):
        width = min(CHUNK, n - start)
        load(raw, codes, start, width, rows)
        for r in range(len(codes)):
            total, bits = scan(rows[r, :width])
            sums[r] += total
            seen[r] |= bits
        for i in range(0, len(rows), TILE):
            begin = max(i, first // TILE * TILE)
            if begin > i:
                add_tile(rows, i, i, width, products)
            for j in range(begin, len(rows), TILE):
                add_tile(rows, i, j, width, products)


@njit(cache=True, nogil=True)
def load(raw, codes, start, width, rows):  # type: ignore[no-untyped-def]
    """Fill rows[:, :width] with the reference and the differences from it, from element `start` on."""
    sizes = (4, 2, 2, 1, 1, 8)
    for r in range(len(codes)):
        target = rows[r, :width]
        code = max(codes[r], 0)
        decode_block(raw[r][start * sizes[code] :], code, target)
        if r > 0 and codes[r] != DELTA:
            subtract(target, rows[0, :width])


@njit(cache=True, nogil=True)
def subtract(target, reference):  # type: ignore[no-untyped-def]
    """Subtract the reference in place."""
    for e in range(target.size):
        target[e] -= reference[e]


@njit(cache=True, nogil=True, fastmath=REASSOCIATE)
def scan(row):  # type: ignore[no-untyped-def]
    """Return the sum of a row in float64 and the or of its magnitudes' bits."""
    total = 0.0
    bits = np.uint32(0)
    for e in range(row.size):
        total += np.float64(row[e])
        bits |= bits_of_float(row[e]) & np.uint32(0x7FFFFFFF)
    return total, bits


@njit(cache=True, nogil=True, fastmath=REASSOCIATE)
def add_tile(rows, i, j, width, out):  # type: ignore[no-untyped-def]
    """Add the 16 inner products of rows i … i + 3 and rows j … j + 3 to out float64[i…, j…]."""
    zero = np.float32(0)
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zero
    s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero
    a0, a1, a2, a3 = rows[i][:width], rows[i + 1][:width], rows[i + 2][:width], rows[i + 3][:width]
    b0, b1, b2, b3 = rows[j][:width], rows[j + 1][:width], rows[j + 2][:width], rows[j + 3][:width]
    for e in range(width):
        w, x, y, z = b0[e], b1[e], b2[e], b3[e]
        p, q, r, s = a0[e], a1[e], a2[e], a3[e]
        s00 += p * w
        s01 += p * x
        s02 += p * y
        s03 += p * z
        s10 += q * w
        s11 += q * x
        s12 += q * y
        s13 += q * z
        s20 += r * w
        s21 += r * x
        s22 += r * y
        s23 += r * z
        s30 += s * w
        s31 += s * x
        s32 += s * y
        s33 += s * z
    out[i, j] += s00
    out[i, j + 1] += s01
    out[i, j + 2] += s02
    out[i, j + 3] += s03
    out[i + 1, j] += s10
    out[i + 1, j + 1] += s11
    out[i + 1, j + 2] += s12
    out[i + 1, j + 3] += s13
    out[i + 2, j] += s20
    out[i + 2, j + 1] += s21
    out[i + 2, j + 2] += s22
    out[i + 2, j + 3] += s23
    out[i + 3, j] += s30
    out[i + 3, j + 1] += s31
    out[i + 3, j + 2] += s32
    out[i + 3, j + 3] += s33
