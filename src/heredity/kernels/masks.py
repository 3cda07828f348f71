"""Thin a task vector in place: by magnitude, at random, or at random by magnitude rank; and its L1 norm.

Random masks come from a counter-based generator: the draw of an element depends on a key and on its index,
and on nothing else, so any division of the work among threads or blocks gives the same mask.
"""

import numpy as np
from numba import njit

from heredity.kernels.decode import bits_of_float


@njit(cache=True, nogil=True)
def keep_between(delta, low, high, quota_low, skip_high, seen):  # type: ignore[no-untyped-def]
    """Zero what is outside [low, high] in magnitude; ties at the ends go by index.

    Args:
        delta: float32[n], changed in place.
        low, high: bits of the smallest and the largest magnitude kept.
        quota_low: of the elements equal to `low` (in the whole tensor), how many of the first ones are kept.
        skip_high: of those equal to `high`, how many of the first ones are dropped.
        seen: int64[2], how many equals of low and of high came in earlier blocks; updated.
    """
    lower, upper = np.uint32(low), np.uint32(high)
    ties_low, ties_high = 0, 0
    for i in range(delta.size):
        bits = bits_of_float(delta[i]) & np.uint32(0x7FFFFFFF)
        ties_low += bits == lower
        ties_high += bits == upper
    some_low = seen[0] < quota_low and seen[0] + ties_low > quota_low
    some_high = seen[1] < skip_high and seen[1] + ties_high > skip_high
    if some_low or some_high:  # only some of a block's ties go: one by one
        at_low, at_high = seen[0], seen[1]
        for i in range(delta.size):
            bits = bits_of_float(delta[i]) & np.uint32(0x7FFFFFFF)
            kept = bits >= lower and bits <= upper
            if bits == upper:
                kept = kept and at_high >= skip_high
                at_high += 1
            if bits == lower:
                kept = kept and at_low < quota_low
                at_low += 1
            if not kept:
                delta[i] = np.float32(0)
    else:
        if seen[0] >= quota_low and ties_low > 0:
            lower = np.uint32(lower + np.uint32(1))  # the quota is used up: equals of low go, all of them
        if seen[1] + ties_high <= skip_high and ties_high > 0:
            upper = np.uint32(upper - np.uint32(1))  # still among the first: equals of high go, all of them
        for i in range(delta.size):
            bits = bits_of_float(delta[i]) & np.uint32(0x7FFFFFFF)
            delta[i] = delta[i] if bits >= lower and bits <= upper else np.float32(0)
    seen[0] += ties_low
    seen[1] += ties_high


@njit(inline="always")
def draw(index, key_low, key_high):  # type: ignore[no-untyped-def]
    """Return 32 pseudo-random bits of an index (uint32) under two 32-bit keys: two keyed mixings."""
    x = np.uint32(index ^ key_low)
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    x = np.uint32((x ^ (x >> np.uint32(16))) + key_high)
    x = np.uint32((x ^ (x >> np.uint32(17))) * np.uint32(0xED5AD4BB))
    x = np.uint32((x ^ (x >> np.uint32(11))) * np.uint32(0xAC4C1B51))
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x31848BAB))
    return np.uint32(x ^ (x >> np.uint32(14)))


@njit(cache=True, nogil=True)
def keep_at_random(delta, start, key, limit):  # type: ignore[no-untyped-def]
    """Keep each element with probability limit / 2³².

    Args:
        delta: float32[n], changed in place.
        start: index of its first element in the tensor.
        key: uint64 of (seed, model, tensor).
        limit: uint64, 0 … 2³².
    """
    first = np.uint64(start)
    offset = np.uint32(first & np.uint64(0xFFFFFFFF))
    wrap = np.uint32(first >> np.uint64(32)) * np.uint32(0x9E3779B9)  # beyond 2³² elements another key
    low = np.uint32(key & np.uint64(0xFFFFFFFF)) ^ wrap
    high = np.uint32(key >> np.uint64(32))
    most = np.uint64(limit)
    if most == np.uint64(0):
        delta[:] = np.float32(0)
        return
    last = np.uint32(most - np.uint64(1))  # keep where draw <= last: fits 32 bits even for probability 1
    for i in range(delta.size):
        bits = draw(np.uint32(offset + np.uint32(i)), low, high)
        delta[i] = delta[i] if bits <= last else np.float32(0)


@njit(cache=True, nogil=True)
def keep_by_rank(delta, width, start, key, density, epsilon):  # type: ignore[no-untyped-def]
    """Keep each element with a probability linear in its magnitude rank within its row.

    Args:
        delta: float32[rows · width], changed in place; whole rows.
        width: elements of a row.
        start: index of the first element in the tensor.
        key: uint64 of (seed, model, tensor).
        density: mean probability; epsilon: the smallest element has density − epsilon, the largest the sum.
    """
    low = np.uint32(np.uint64(key) & np.uint64(0xFFFFFFFF))
    high = np.uint32(np.uint64(key) >> np.uint64(32))
    for row in range(delta.size // width):
        values = delta[row * width : (row + 1) * width]
        order = np.argsort(np.abs(values), kind="mergesort")  # stable: ties by index
        for rank in range(width):
            place = rank / (width - 1) if width > 1 else 0.5
            probability = density - epsilon + 2 * epsilon * place
            index = np.uint64(start + row * width + order[rank])
            wrap = np.uint32(index >> np.uint64(32)) * np.uint32(0x9E3779B9)
            bits = draw(np.uint32(index & np.uint64(0xFFFFFFFF)), low ^ wrap, high)
            if bits >= probability * 4294967296.0:
                values[order[rank]] = np.float32(0)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def l1_and_count(values):  # type: ignore[no-untyped-def]
    """Return Σ|values|, in fp32 within 256 elements and in fp64 across, and how many values are not zero."""
    total, count = 0.0, 0
    whole = values.size // 256 * 256
    for start in range(0, whole, 256):
        part, kept = np.float32(0), np.int32(0)
        piece = values[start : start + 256]
        for i in range(256):
            part += abs(piece[i])
            kept += np.int32(piece[i] != 0)
        total += np.float64(part)
        count += int(kept)
    for i in range(whole, values.size):
        total += np.float64(abs(values[i]))
        count += values[i] != 0
    return total, count
