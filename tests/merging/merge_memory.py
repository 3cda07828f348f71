"""Checkpoints that live in memory, so that a property can be tried on hundreds of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy import ndarray

from heredity.checkpoint import Checkpoint
from heredity.header import TensorInfo
from heredity.merging import Merge, Method, merge


class MemoryCheckpoint(Checkpoint):
    """One tensor "w"."""

    def __init__(self, name: str, values: ndarray) -> None:
        self.values = np.ascontiguousarray(values, np.float32)
        path = Path("/memory") / name
        info = TensorInfo("w", "F32", self.values.shape, path, 0, self.values.nbytes)
        super().__init__(path, {"w": info}, {}, name=name)

    @contextmanager
    def reading(self, name: str) -> Iterator["_Reader"]:
        yield _Reader(self.values.ravel())


class _Reader:
    dtype, item_bytes = "F32", 4

    def __init__(self, values: ndarray) -> None:
        self.values, self.size = values, values.size

    def read_raw(self, start: int, stop: int, buffer: ndarray) -> int:
        buffer[: 4 * (stop - start)].view(np.float32)[:] = self.values[start:stop]
        return 4 * (stop - start)

    def read(self, start: int, stop: int, out: ndarray | None = None) -> ndarray:
        out = np.empty(stop - start, np.float32) if out is None else out
        out[:] = self.values[start:stop]
        return out


def prepared(method: Method, models: Sequence[ndarray], base: ndarray | None, seed: int = 0) -> Merge:
    named = [MemoryCheckpoint(f"m{i}", model) for i, model in enumerate(models)]
    return merge(method, named, None if base is None else MemoryCheckpoint("base", base), seed=seed)


def result(method: Method, models: Sequence[ndarray], base: ndarray | None, seed: int = 0) -> ndarray:
    blocks = [block.copy() for block in prepared(method, models, base, seed).blocks("w")]
    return np.concatenate([np.empty(0, np.float32), *blocks]).reshape(models[0].shape)
