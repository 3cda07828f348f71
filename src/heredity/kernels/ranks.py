"""Order statistics of differences, where a sample has told nearly where they lie."""

import numpy as np
from numba import njit

from heredity.kernels.decode import bits_of_float

_CHUNK = 1024


@njit(cache=True, nogil=True)
def gather(model, base, low, high, found, filled):  # type: ignore[no-untyped-def]
    """Count the magnitudes |model − base| above a bracket, and keep those within it.

    Args:
        model: float32[n].
        base: float32[n].
        low: bits of the smallest magnitude of the bracket.
        high: bits of the largest one.
        found: uint32[m], receives the bits of the magnitudes within, from `filled` on.

    Returns:
        How many magnitudes are above, and how full `found` is now; −1 if it was too small.
    """
    bits = np.empty(_CHUNK, np.uint32)
    bottom, top = np.uint32(low), np.uint32(high)
    span = np.uint32(top - bottom)
    above = 0
    for start in range(0, model.size, _CHUNK):
        size = min(model.size, start + _CHUNK) - start
        if filled + size > found.size:
            return above, -1
        a, b, count = model[start : start + size], base[start : start + size], np.int32(0)
        for i in range(size):
            bits[i] = bits_of_float(np.float32(a[i] - b[i])) & np.uint32(0x7FFFFFFF)
            count += np.int32(bits[i] > top)
        above += int(count)
        for i in range(size):  # without a branch: what is outside is overwritten by the next one
            found[filled] = bits[i]
            filled += np.uint32(bits[i] - bottom) <= span
    return above, filled
