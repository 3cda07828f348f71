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
def sign_conflicts(deltas):  # type: ignore[no-untyped-def]
    """Return how many elements of deltas float32[K, n] have both a positive and a negative entry."""
    conflicts = 0
    up = np.empty(_CHUNK, np.bool_)
    down = np.empty(_CHUNK, np.bool_)
    for start in range(0, deltas.shape[1], _CHUNK):
        size = min(deltas.shape[1], start + _CHUNK) - start
        for i in range(size):
            up[i] = False
            down[i] = False
        for k in range(deltas.shape[0]):
            delta = deltas[k][start : start + size]
            for i in range(size):
                up[i] |= delta[i] > 0
                down[i] |= delta[i] < 0
        for i in range(size):
            conflicts += up[i] and down[i]
    return conflicts
