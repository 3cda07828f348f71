"""Exact order statistics by counting digits: thresholds over billions of numbers without a sort.

Keys are the bits of non-negative floats, which order as the floats do. A key is read in digits of 16 bits,
the top one first; each pass over the data counts one digit among the keys that share those already known.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from heredity.kernels.decode import bits_of_float

DIGITS = 1 << 16


@njit(cache=True, nogil=True)
def count_high(values, counts):  # type: ignore[no-untyped-def]
    """Add to counts int64[32768] the top digit (of 15 bits) of |values|, float32[n]."""
    for i in range(values.size):
        counts[(bits_of_float(values[i]) & np.uint32(0x7FFFFFFF)) >> np.uint32(16)] += 1


@njit(cache=True, nogil=True)
def count_low(values, high, counts):  # type: ignore[no-untyped-def]
    """Add to counts int64[65536] the lower digit of those of |values| whose top digit is `high`."""
    top = np.uint32(high)
    for i in range(values.size):
        bits = bits_of_float(values[i]) & np.uint32(0x7FFFFFFF)
        if bits >> np.uint32(16) == top:
            counts[bits & np.uint32(0xFFFF)] += 1


@njit(cache=True, nogil=True)
def count_digit(keys, prefix, shift, counts):  # type: ignore[no-untyped-def]
    """Add to counts int64[65536] the digit of keys uint64[n] at bit `shift`, if the bits above are `prefix`.

    `prefix` is ignored for the top digit (shift 48).
    """
    above = np.uint64(shift + 16)
    low = np.uint64(shift)
    for i in range(keys.size):
        if shift == 48 or keys[i] >> above == prefix:
            counts[(keys[i] >> low) & np.uint64(0xFFFF)] += 1


def descend(counts: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """Return the digit that holds the element of a 0-based rank from the top, and its rank within it."""
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, rank, side="right"))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, rank - before


def ascend(counts: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """Return the digit that holds the element of a 0-based rank from the bottom, and its rank within it."""
    below = np.cumsum(counts)
    place = int(np.searchsorted(below, rank, side="right"))
    before = int(below[place - 1]) if place else 0
    return place, rank - before
