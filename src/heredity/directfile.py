"""A new file that is written in large aligned pieces past the page cache, and hashed on the way.

A checkpoint is written once and is often larger than memory: through the page cache each byte would be copied
once more, push the inputs out, and wait for the flush at the end. File systems without direct I/O (tmpfs, some
network mounts) are written through the cache instead; the bytes are the same.
"""

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

ALGORITHM = "blake3"  # of the digests of what is written
_PIECE = 4 << 20  # bytes of a write: large enough for any disk, small enough to stay in a cache
_DIRECT: int = getattr(os, "O_DIRECT", 0)  # not every system has it


class HashedFile:
    """A file in the making: `write` takes bytes of any length, `digest` is of everything written."""

    def __init__(self, descriptor: int, writer: ThreadPoolExecutor) -> None:
        self._descriptor = descriptor
        self._writer = writer
        self._digest = blake3()
        self._buffers = [mmap.mmap(-1, _PIECE) for _ in range(2)]  # page-aligned, as direct I/O asks
        self._filled = 0
        self._pending: Future[None] | None = None

    def write(self, data: Any) -> None:
        """Append a buffer's bytes."""
        view = memoryview(data).cast("B")
        while len(view):
            taken = min(len(view), _PIECE - self._filled)
            self._buffers[0][self._filled : self._filled + taken] = view[:taken]
            self._filled += taken
            view = view[taken:]
            if self._filled == _PIECE:
                self._hand_over()

    def fill(self, nbytes: int, item_bytes: int, into: Callable[[int, NDArray[Any]], None]) -> None:
        """Append bytes that are made where they are written.

        Args:
            nbytes: how many.
            item_bytes: of one element: 1, 2, 4 or 8.
            into: called with the number of the first element and an unsigned integer array to fill, in order.
        """
        done = 0
        while done < nbytes:
            taken = min(nbytes - done, _PIECE - self._filled) // item_bytes * item_bytes
            in_place = taken > 0 and self._filled % item_bytes == 0
            if in_place:
                target = np.frombuffer(self._buffers[0], np.uint8, taken, self._filled)
            else:  # after a tensor of an odd length
                target = np.empty(min(nbytes - done, _PIECE), np.uint8)
            into(done // item_bytes, target.view(f"u{item_bytes}"))
            done += len(target)
            if not in_place:
                self.write(target)
                continue
            self._filled += taken
            if self._filled == _PIECE:
                self._hand_over()

    @property
    def digest(self) -> str:
        """Digest of all bytes, once the file is finished, with its algorithm: "blake3:…"."""
        return f"{ALGORITHM}:{self._digest.hexdigest()}"

    def finish(self) -> None:
        """Write what is left; its length fits no disk block, so it goes through the cache."""
        self._wait()
        _through_cache(self._descriptor)
        self._flush(memoryview(self._buffers[0])[: self._filled])

    def _hand_over(self) -> None:
        """Let the full buffer be written while the other one is filled."""
        self._wait()
        self._pending = self._writer.submit(self._flush, memoryview(self._buffers[0]))
        self._buffers.reverse()
        self._filled = 0

    def _flush(self, view: memoryview) -> None:
        self._digest.update(view)
        _write_all(self._descriptor, view)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None


@contextmanager
def hashed_file(path: Path) -> Iterator[HashedFile]:
    """Open a new file for writing; every byte has been handed to the system when the block ends.

    Raises:
        OSError: the disk is full or failed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags | _DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.open(path, flags, 0o666)
    try:
        with ThreadPoolExecutor(1, "write") as writer:  # ends, and so waits, before the file is closed
            file = HashedFile(descriptor, writer)
            yield file
            file.finish()
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, view: memoryview) -> None:
    while len(view):
        try:
            view = view[os.write(descriptor, view) :]
        except OSError as error:  # opened for direct I/O by a file system that does not do it after all
            if error.errno != errno.EINVAL or not _through_cache(descriptor):
                raise


def _through_cache(descriptor: int) -> bool:
    """Turn direct I/O off; say whether it was on."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if not flags & _DIRECT:
        return False
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
        return True
    return False
