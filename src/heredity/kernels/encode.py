"""Encode float32 as bf16 or fp16 bytes, rounding to nearest even, as torch and numpy do."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from heredity.errors import ConfigError
from heredity.kernels.decode import bits_of_float

ENCODINGS = ("F32", "BF16", "F16")


def encode(values: NDArray[np.float32], dtype: str) -> NDArray[np.uint8]:
    """Return the little-endian bytes of float32[n] in a safetensors dtype, uint8[n · bytes per element].

    A finite value beyond ±65504 becomes an infinity in F16, as IEEE 754 asks: `overflows` counts them.

    Raises:
        ConfigError: the dtype cannot be written.
    """
    values = np.ascontiguousarray(values, np.float32).reshape(-1)
    if dtype == "F32":
        return values.view(np.uint8)
    if dtype == "F16":
        with np.errstate(over="ignore", under="ignore"):
            return values.astype(np.float16).view(np.uint8)
    if dtype == "BF16":
        out = np.empty(values.size, np.uint16)
        encode_bf16(values, out)
        return out.view(np.uint8)
    raise ConfigError(f"weights cannot be written as {dtype}", f"choose one of {', '.join(ENCODINGS)}")


def overflows(values: NDArray[np.float32], dtype: str) -> int:
    """Count finite values that become infinite in `dtype`."""
    limit = {"F16": 65520.0, "BF16": float(np.uint32(0x7F7F8000).view(np.float32))}.get(dtype)
    if limit is None:
        return 0
    return int(np.count_nonzero(np.isfinite(values) & (np.abs(values) >= limit)))


@njit(cache=True, nogil=True)
def encode_bf16(values, out):  # type: ignore[no-untyped-def]
    """Round float32[n] to the nearest bf16 (ties to even) in uint16[n]; NaN stays NaN."""
    for i in range(values.size):
        bits = bits_of_float(values[i])
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        quiet = (bits >> np.uint32(16)) | np.uint32(0x40)  # keep the payload's top, force a quiet NaN
        is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        out[i] = np.uint16(quiet if is_nan else rounded)
