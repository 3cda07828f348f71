"""Σ c_i w_i over the raw bytes of K inputs: decoded, multiplied and added in one pass over the cache.

Accumulation is float32, one fused multiply-add per input in the order given, so the result depends on neither
the block size nor the number of workers.
"""

import numpy as np
from numba import njit

from heredity.kernels.decode import E4M3, E5M2, float_of_bits, fused_multiply_add, half
from heredity.kernels.encode import encode_bf16

_BLOCK = 4096


@njit(cache=True, nogil=True)
def weighted_sum(raw, codes, coefficients, out):  # type: ignore[no-untyped-def]
    """Fill out float32[n] with Σ_k coefficients[k] · decode(raw[k]).

    Args:
        raw: uint8[K, at least n · bytes per element], each row contiguous and aligned.
        codes: int64[K], format of each row, as in `decode.CODES`.
        coefficients: float32[K].
        out: float32[n].
    """
    n = out.size
    out[:] = np.float32(-0.0)  # the neutral element of addition: −0 weights keep their sign
    for start in range(0, n, _BLOCK):
        stop = min(n, start + _BLOCK)
        for k in range(len(codes)):
            accumulate(raw[k], codes[k], coefficients[k], start, stop, out)


@njit(cache=True, nogil=True)
def rounded_sum(raw, codes, coefficients, out):  # type: ignore[no-untyped-def]
    """Fill out uint16[n] with `weighted_sum` of n elements, rounded to bf16 while in the cache.

    Args:
        raw: uint8[K, at least n · bytes per element], each row contiguous and aligned.
        codes: int64[K], format of each row, as in `decode.CODES`.
        coefficients: float32[K].
        out: uint16[n].
    """
    total = np.empty(_BLOCK, np.float32)
    sizes = (4, 2, 2, 1, 1, 8)
    for start in range(0, out.size, _BLOCK):
        size = min(out.size, start + _BLOCK) - start
        part = total[:size]
        part[:] = np.float32(-0.0)
        for k in range(len(codes)):
            accumulate(raw[k][start * sizes[codes[k]] :], codes[k], coefficients[k], 0, size, part)
        encode_bf16(part, out[start : start + size])


@njit(cache=True, nogil=True)
def accumulate(raw, code, coefficient, start, stop, out):  # type: ignore[no-untyped-def]
    """Add coefficient · decode(raw)[start:stop] to out[start:stop]."""
    target = out[start:stop]
    if code == 0:
        words = raw[4 * start : 4 * stop].view(np.float32)
        for i in range(target.size):
            target[i] = fused_multiply_add(coefficient, words[i], target[i])
    elif code == 1:
        halves = raw[2 * start : 2 * stop].view(np.uint16)
        for i in range(target.size):
            value = float_of_bits(np.uint32(halves[i]) << np.uint32(16))
            target[i] = fused_multiply_add(coefficient, value, target[i])
    elif code == 2:
        halves = raw[2 * start : 2 * stop].view(np.uint16)
        for i in range(target.size):
            target[i] = fused_multiply_add(coefficient, half(np.uint32(halves[i])), target[i])
    elif code == 3:
        octets = raw[start:stop]
        for i in range(target.size):
            target[i] = fused_multiply_add(coefficient, E4M3[octets[i]], target[i])
    elif code == 4:
        octets = raw[start:stop]
        for i in range(target.size):
            target[i] = fused_multiply_add(coefficient, E5M2[octets[i]], target[i])
    else:
        doubles = raw[8 * start : 8 * stop].view(np.float64)
        for i in range(target.size):
            target[i] = fused_multiply_add(coefficient, np.float32(doubles[i]), target[i])
