"""The result of a span method: Σ coefficient · tensor, as float32 blocks or as bf16 right where it is written."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from heredity.checkpoint import Checkpoint, Reader
from heredity.kernels.combine import rounded_sum, weighted_sum
from heredity.kernels.decode import code_of

BLOCK = 1 << 18  # elements of a sum that are handed on at a time
_STEP = 1 << 17  # elements that are read of each input at a time
_BUFFER_BYTES = 32 << 20  # of all inputs together

Term = tuple[Checkpoint, str, float]  # a checkpoint, its tensor, its coefficient
Into = Callable[[int, ndarray], None]  # fills uint16[n] with the elements from one on


def sum_blocks(terms: Sequence[Term], size: int) -> Iterator[Float32[ndarray, "n"]]:
    """Yield Σ coefficient · tensor in float32, one fused multiply-add for each term in order."""
    used = [term for term in terms if term[2] != 0]
    out = np.zeros(min(BLOCK, size), np.float32)
    factors = np.array([coefficient for _, _, coefficient in used], np.float32)
    with ExitStack() as stack:
        readers, codes, raw, step = _opened(used, stack)
        for start in range(0, size, BLOCK):
            stop = min(size, start + BLOCK)
            for low in range(start, stop, step):
                high = min(stop, low + step)
                for reader, row in zip(readers, raw, strict=True):
                    reader.read_raw(low, high, row)
                if used:
                    weighted_sum(raw, codes, factors, out[low - start : high - start])
            yield out[: stop - start]


@contextmanager
def summing(terms: Sequence[Term]) -> Iterator[Into]:
    """Open the terms; yield what fills an array with bf16 elements of their sum: the bytes of `sum_blocks`."""
    used = [term for term in terms if term[2] != 0]
    factors = np.array([coefficient for _, _, coefficient in used], np.float32)
    with ExitStack() as stack:
        readers, codes, raw, step = _opened(used, stack)

        def into(first: int, out: ndarray) -> None:
            if not used:
                out[:] = 0
                return
            for low in range(0, len(out), step):
                high = min(len(out), low + step)
                for reader, row in zip(readers, raw, strict=True):
                    reader.read_raw(first + low, first + high, row)
                rounded_sum(raw, codes, factors, out[low:high])

        yield into


def _opened(used: Sequence[Term], stack: ExitStack) -> tuple[list[Reader], ndarray, ndarray, int]:
    """Return readers of the terms, their formats, buffers, and how many elements go into them."""
    readers = [stack.enter_context(checkpoint.reading(own)) for checkpoint, own, _ in used]
    codes = np.array([code_of(reader.dtype) for reader in readers], np.int64)
    widest = max((reader.item_bytes for reader in readers), default=4)
    step = max(1 << 12, min(_STEP, _BUFFER_BYTES // (widest * max(len(used), 1))) & ~0xFFF)
    return readers, codes, np.empty((len(used), step * widest), np.uint8), step
