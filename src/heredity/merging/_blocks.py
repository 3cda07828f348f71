"""Read one tensor of all inputs in blocks of float32, as often as a method likes, in bounded memory."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import numpy as np

from heredity.checkpoint import Checkpoint
from heredity.kernels.decode import decode
from heredity.merging._method import Block

BLOCK = 1 << 16  # elements: a block of every input should stay in the cache
_BUFFER_BYTES = 64 << 20  # of all inputs' blocks together
_RUNS, _RUN = 64, 1 << 10  # of a sample: places, and elements at each
_LEAST = 1 << 10  # elements, however many inputs there are


class InputBlocks:
    """One tensor of a base and of models.

    The arrays of a block are overwritten by the next one: a method may change them, and must not keep them.
    """

    def __init__(self, inputs: Sequence[Checkpoint], name: str, seed: int, *, rows: bool) -> None:
        info = inputs[0].info(name)
        self.name, self.shape, self.size, self.seed = name, info.shape, info.size, seed
        self.models = tuple(checkpoint.name for checkpoint in inputs[1:])
        self._inputs = tuple(inputs)
        step = max(_LEAST, min(BLOCK, _BUFFER_BYTES // (4 * len(inputs))))
        if rows:
            width = max(info.shape[-1] if info.shape else 1, 1)
            step = max(1, step // width) * width
        self.step = min(step, max(self.size, 1))

    def __iter__(self) -> Iterator[Block]:
        count = len(self._inputs)
        buffer = np.empty(count * self.step, np.float32)
        raw = np.empty(8 * self.step, np.uint8)
        with ExitStack() as stack:
            readers = [stack.enter_context(checkpoint.reading(self.name)) for checkpoint in self._inputs]
            for start in range(0, self.size, self.step):
                stop = min(self.size, start + self.step)
                rows = buffer[: count * (stop - start)].reshape(count, -1)  # contiguous, whatever the length
                for reader, row in zip(readers, rows, strict=True):
                    used = reader.read_raw(start, stop, raw)
                    decode(raw[:used], reader.dtype, row)
                yield Block(start, rows[0], rows[1:])

    def sample(self) -> Block:
        """Return some elements of all inputs, from evenly spaced places; all of a small tensor."""
        run = min(_RUN, self.size)
        starts = np.unique(np.linspace(0, self.size - run, _RUNS).astype(np.int64)).tolist()
        rows = np.empty((len(self._inputs), len(starts) * run), np.float32)
        with ExitStack() as stack:
            for given, row in zip(self._inputs, rows, strict=True):
                reader = stack.enter_context(given.reading(self.name))
                for number, start in enumerate(starts):
                    reader.read(start, start + run, row[number * run : (number + 1) * run])
        return Block(0, rows[0], rows[1:])
