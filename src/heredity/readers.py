"""Block reads of one tensor, from its file or from a base plus something, into buffers used again.

Reads go through `pread`: nothing is mapped, so a file that is cut short while it is read is an error message
and not a crash, and memory stays at the size of a block.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from heredity.errors import CheckpointError
from heredity.header import DTYPE_BYTES, TensorInfo
from heredity.lowrank import LowRank

_STEP = 1 << 18


class Reader(Protocol):
    """A tensor that is open for reading.

    Attributes:
        dtype: safetensors name of what `read_raw` gives.
        item_bytes: bytes of one element of it.
        size: number of elements.
    """

    @property
    def dtype(self) -> str: ...

    @property
    def item_bytes(self) -> int: ...

    @property
    def size(self) -> int: ...

    def read_raw(self, start: int, stop: int, buffer: NDArray[np.uint8]) -> int:
        """Fill the head of an aligned buffer with elements [start, stop); return how many bytes that is."""

    def read(self, start: int, stop: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return elements [start, stop) as float32, in `out` when it is given."""


@contextmanager
def opened(info: TensorInfo) -> Iterator["FileReader"]:
    """Open a tensor's file for reading.

    Raises:
        CheckpointError: it cannot be opened.
    """
    try:
        descriptor = os.open(info.file, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(
            f"{info.file}: cannot be read ({error.strerror})", "check the file, then run again"
        ) from None
    try:
        yield FileReader(info, descriptor)
    finally:
        os.close(descriptor)


class FileReader:
    """A tensor in a file."""

    def __init__(self, info: TensorInfo, descriptor: int) -> None:
        self.info = info
        self.dtype, self.item_bytes, self.size = info.dtype, info.item_bytes, info.size
        self._descriptor = descriptor

    def read_raw(self, start: int, stop: int, buffer: NDArray[np.uint8]) -> int:
        """Fill the head of `buffer` with the bytes of elements [start, stop).

        Raises:
            CheckpointError: the disk failed, or the file ended before the last byte.
        """
        if not 0 <= start <= stop <= self.size:
            raise IndexError(f"{self.info.name}: elements {start}…{stop} of {self.size}")
        wanted, offset = (stop - start) * self.item_bytes, self.info.start + start * self.item_bytes
        target = buffer.data[:wanted]
        done = 0
        while done < wanted:
            try:
                got = os.preadv(self._descriptor, [target[done:]], offset + done)
            except OSError as error:
                raise CheckpointError(
                    f"{self.info.file}: tensor {self.info.name} cannot be read ({error.strerror})",
                    "check the disk, then run again: finished parts are kept",
                ) from None
            if got == 0:
                raise CheckpointError(
                    f"{self.info.file}: ends inside tensor {self.info.name}: cut short after it was opened",
                    "restore the file, then run again: finished parts are kept",
                )
            done += got
        return wanted

    def read(self, start: int, stop: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return elements [start, stop) as float32."""
        return _decoded(self, start, stop, out)


class RowsReader:
    """Some rows of a tensor, in a given order, as if they were the tensor."""

    def __init__(self, reader: Reader, rows: NDArray[np.int64], width: int) -> None:
        self._reader, self._rows, self._width = reader, rows, width
        self.dtype, self.item_bytes, self.size = reader.dtype, reader.item_bytes, len(rows) * width

    def read_raw(self, start: int, stop: int, buffer: NDArray[np.uint8]) -> int:
        """Fill the head of `buffer`; start and stop fall on whole rows."""
        first, last = start // self._width, stop // self._width
        if first * self._width != start or last * self._width != stop:
            raise IndexError(f"elements {start}…{stop} do not fall on rows of {self._width}")
        rows = self._rows[first:last]
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        done = 0
        for low, high in pairwise(cuts):  # runs of neighbours are read at once
            if high > low:
                begin = int(rows[low]) * self._width
                done += self._reader.read_raw(begin, begin + (high - low) * self._width, buffer[done:])
        return done

    def read(self, start: int, stop: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return elements [start, stop) as float32."""
        return _decoded(self, start, stop, out, step=max(1, _STEP // self._width) * self._width)


class AdaptedReader:
    """A base's tensor plus a low-rank difference, added in float32."""

    dtype, item_bytes = "F32", DTYPE_BYTES["F32"]

    def __init__(self, base: Reader, delta: LowRank) -> None:
        self._base, self._delta, self._width = base, delta, delta.shape[1]
        self.size = base.size

    def read_raw(self, start: int, stop: int, buffer: NDArray[np.uint8]) -> int:
        """Fill the head of `buffer` with float32 elements [start, stop)."""
        wanted = 4 * (stop - start)
        self.read(start, stop, buffer[:wanted].view(np.float32))
        return wanted

    def read(self, start: int, stop: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return elements [start, stop) as float32; rows of Δ are formed a few at a time."""
        out = self._base.read(start, stop, out)
        step = max(1, _STEP // self._width)
        for first in range(start // self._width, -(-stop // self._width), step):
            last = min(first + step, -(-stop // self._width))
            delta = self._delta.rows(first, last).reshape(-1)
            low, high = max(start, first * self._width), min(stop, last * self._width)
            out[low - start : high - start] += delta[low - first * self._width : high - first * self._width]
        return out


def _decoded(
    reader: Reader, start: int, stop: int, out: NDArray[np.float32] | None, step: int = _STEP
) -> NDArray[np.float32]:
    from heredity.kernels.decode import decode

    if not 0 <= start <= stop <= reader.size:
        raise IndexError(f"elements {start}…{stop} of {reader.size}")
    out = np.empty(stop - start, np.float32) if out is None else out
    if reader.dtype == "F32" and out.flags.c_contiguous:
        reader.read_raw(start, stop, out.view(np.uint8))
        return out
    buffer = np.empty(min(step, stop - start) * reader.item_bytes, np.uint8)
    for low in range(start, stop, step):
        high = min(stop, low + step)
        used = reader.read_raw(low, high, buffer)
        decode(buffer[:used], reader.dtype, out[low - start : high - start])
    return out
