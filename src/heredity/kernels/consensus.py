"""Add weighted task vectors to the base: all of them, or only those that agree with the elected sign."""

import numpy as np
from numba import njit

_CHUNK = 2048


@njit(cache=True, nogil=True)
def add_all(base, deltas, weights, scale, out):  # type: ignore[no-untyped-def]
    """Fill out float32[n] with base + scale · Σ_k weights[k] · deltas[k].

    Args:
        base: float32[n].
        deltas: float32[K, n].
        weights: float32[K].
        scale: float32.
    """
    total = np.empty(_CHUNK, np.float32)
    for start in range(0, out.size, _CHUNK):
        stop = min(out.size, start + _CHUNK)
        for i in range(stop - start):
            total[i] = np.float32(0)
        for k in range(len(weights)):
            delta, weight = deltas[k][start:stop], weights[k]
            for i in range(stop - start):
                total[i] += weight * delta[i]
        origin, target = base[start:stop], out[start:stop]
        for i in range(stop - start):
            target[i] = origin[i] + scale * total[i]


@njit(cache=True, nogil=True, error_model="numpy")
def add_agreeing(base, deltas, votes, weights, normalize, smallest, scale, out):  # type: ignore[no-untyped-def]
    """Fill out float32[n] with base + scale · the sum of the weighted deltas whose sign was elected.

    The sign of Σ_k votes[k] · deltas[k] is elected, + for a sum of zero; zeros agree with nobody. With
    `normalize` the sum is divided by the weights of those that agree: by no less than `smallest`, or where
    that is 0 by 1 instead of 0.

    Args:
        base: float32[n].
        deltas: float32[K, n].
        votes: float32[K].
        weights: float32[K].
        normalize: bool.
        smallest: float32, least divisor.
        scale: float32.
    """
    total = np.empty(_CHUNK, np.float32)
    agreeing = np.empty(_CHUNK, np.float32)
    divisor = np.empty(_CHUNK, np.float32)
    for start in range(0, out.size, _CHUNK):
        size = min(out.size, start + _CHUNK) - start
        for i in range(size):
            total[i] = np.float32(0)
            agreeing[i] = np.float32(0)
            divisor[i] = np.float32(0)
        for k in range(len(weights)):
            delta, vote = deltas[k][start : start + size], votes[k]
            for i in range(size):
                total[i] += vote * delta[i]
        for k in range(len(weights)):
            delta, vote, weight = deltas[k][start : start + size], votes[k], weights[k]
            for i in range(size):
                sign = np.float32(1) if total[i] >= 0 else np.float32(-1)
                agrees = sign * (vote * delta[i]) > 0
                agreeing[i] += weight * delta[i] if agrees else np.float32(0)
                divisor[i] += weight if agrees else np.float32(0)
        if not normalize:
            for i in range(size):
                divisor[i] = np.float32(1)
        elif smallest > 0:
            for i in range(size):
                divisor[i] = max(divisor[i], smallest)
        else:
            for i in range(size):
                divisor[i] = divisor[i] if divisor[i] != 0 else np.float32(1)
        origin, target = base[start : start + size], out[start : start + size]
        for i in range(size):
            target[i] = origin[i] + scale * (agreeing[i] / divisor[i])


@njit(cache=True, nogil=True)
def count_used(deltas, least, used):  # type: ignore[no-untyped-def]
    """Count elements with a positive and a negative entry in deltas float32[K, n]; NaN has no sign.

    Args:
        deltas: float32[K, n].
        least: float32; larger magnitudes are used.
        used: int64[K], how many each row has is added.

    Returns:
        The number of elements.
    """
    if len(deltas) == 2:
        return _count_pair(deltas[0], deltas[1], least, used)
    conflicts = 0
    low, high = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
    for start in range(0, deltas.shape[1], _CHUNK):
        size = min(deltas.shape[1], start + _CHUNK) - start
        for i in range(size):
            low[i] = high[i] = np.float32(0)
        for k in range(deltas.shape[0]):
            delta, count = deltas[k][start : start + size], np.int32(0)
            for i in range(size):
                count += np.int32(not abs(delta[i]) <= least)
                high[i] = delta[i] if delta[i] > high[i] else high[i]
                low[i] = delta[i] if delta[i] < low[i] else low[i]
            used[k] += count
        both = np.int32(0)
        for i in range(size):
            both += np.int32(high[i] > 0) & np.int32(low[i] < 0)
        conflicts += int(both)
    return conflicts


@njit(cache=True, nogil=True)
def _count_pair(a, b, least, used):  # type: ignore[no-untyped-def]
    """Do the same for two rows, without anything between: half the time."""
    conflicts = 0
    for start in range(0, a.size, _CHUNK):
        x, y = a[start : start + _CHUNK], b[start : start + _CHUNK]
        used_a = used_b = both = np.int32(0)
        for i in range(x.size):
            used_a += np.int32(not abs(x[i]) <= least)
            used_b += np.int32(not abs(y[i]) <= least)
            both += np.int32(min(x[i], y[i]) < 0) & np.int32(max(x[i], y[i]) > 0)
        used[0] += used_a
        used[1] += used_b
        conflicts += int(both)
    return conflicts
