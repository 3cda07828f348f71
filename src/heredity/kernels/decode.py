"""Decode bf16, fp16, fp8, fp32 and fp64 bytes to float32: one code per format, one loop per code.

Every conversion is exact except from fp64, which rounds to nearest. fp8 follows the OCP formats of
safetensors: F8_E4M3 is E4M3FN (no infinities, NaN at 0x7f and 0xff), F8_E5M2 is IEEE-like.
"""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from heredity.errors import CheckpointError

CODES = {"F32": 0, "BF16": 1, "F16": 2, "F8_E4M3": 3, "F8_E5M2": 4, "F64": 5}
ITEM_BYTES = (4, 2, 2, 1, 1, 8)


def code_of(dtype: str) -> int:
    """Return the kernel code of a safetensors dtype.

    Raises:
        CheckpointError: the dtype does not hold weights that can be read as float32.
    """
    if dtype not in CODES:
        raise CheckpointError(
            f"dtype {dtype} cannot be read as float32", f"weights come as one of {', '.join(CODES)}"
        )
    return CODES[dtype]


def decode(raw: NDArray[np.uint8], dtype: str, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Decode the bytes of n elements.

    Args:
        raw: uint8[n · bytes per element], contiguous.
        dtype: safetensors name, "BF16" …
        out: float32[n] to fill, or a new array.

    Raises:
        CheckpointError: the dtype is not a floating format.
    """
    code = code_of(dtype)
    if out is None:
        out = np.empty(len(raw) // ITEM_BYTES[code], np.float32)
    decode_block(raw, code, out)
    return out


def _table(exponent_bits: int, mantissa_bits: int, bias: int, infinities: bool) -> NDArray[np.float32]:
    values = np.empty(256, np.float32)
    for byte in range(256):
        exponent = byte >> mantissa_bits & (1 << exponent_bits) - 1
        mantissa = byte & (1 << mantissa_bits) - 1
        fraction = mantissa / (1 << mantissa_bits)
        magnitude = (
            2.0 ** (1 - bias) * fraction if exponent == 0 else 2.0 ** (exponent - bias) * (1 + fraction)
        )
        if infinities and exponent == (1 << exponent_bits) - 1:
            magnitude = np.inf if mantissa == 0 else np.nan
        if not infinities and byte & 0x7F == 0x7F:
            magnitude = np.nan
        values[byte] = -magnitude if byte & 0x80 else magnitude
    return values


E4M3 = _table(4, 3, 7, infinities=False)
E5M2 = _table(5, 2, 15, infinities=True)


@intrinsic
def float_of_bits(context, bits):  # type: ignore[no-untyped-def]
    """Read the bits of a uint32 as a float32."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), generate


@intrinsic
def bits_of_float(context, value):  # type: ignore[no-untyped-def]
    """Read the bits of a float32 as a uint32."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), generate


@intrinsic
def fused_multiply_add(context, a, b, c):  # type: ignore[no-untyped-def]
    """Return a·b + c rounded once, in float32: the same bits in scalar and vector code."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@njit(inline="always")
def half(bits: int) -> float:
    """Return the value of an IEEE fp16, subnormals and infinities included."""
    magnitude = np.uint32(bits & np.uint32(0x7FFF)) << np.uint32(13)
    scaled = bits_of_float(float_of_bits(np.uint32(magnitude)) * np.float32(2.0**112))
    special = np.uint32(magnitude | np.uint32(0x7F800000))
    sign = np.uint32(bits & np.uint32(0x8000)) << np.uint32(16)
    chosen = special if (bits & np.uint32(0x7C00)) == np.uint32(0x7C00) else scaled
    return float_of_bits(np.uint32(chosen | sign))


@njit(cache=True, nogil=True)
def decode_block(raw, code, out):  # type: ignore[no-untyped-def]
    """Decode out.size elements of format `code` from the start of `raw` (uint8, contiguous, aligned)."""
    n = out.size
    if code == 0:
        words = raw[: 4 * n].view(np.float32)
        for i in range(n):
            out[i] = words[i]
    elif code == 1:
        halves = raw[: 2 * n].view(np.uint16)
        for i in range(n):
            out[i] = float_of_bits(np.uint32(halves[i]) << np.uint32(16))
    elif code == 2:
        halves = raw[: 2 * n].view(np.uint16)
        for i in range(n):
            out[i] = half(np.uint32(halves[i]))
    elif code == 3:
        for i in range(n):
            out[i] = E4M3[raw[i]]
    elif code == 4:
        for i in range(n):
            out[i] = E5M2[raw[i]]
    else:
        doubles = raw[: 8 * n].view(np.float64)
        for i in range(n):
            out[i] = np.float32(doubles[i])
