"""Pass 1 of a merge: the Gram matrix of one tensor, right before pass 2 finds it in the page cache."""

from collections.abc import Sequence
from contextlib import ExitStack

import msgspec
import numpy as np

from heredity.checkpoint import Checkpoint
from heredity.coverage import Common, Source
from heredity.errors import CheckpointError
from heredity.gram import TensorGram
from heredity.kernels.decode import code_of
from heredity.kernels.gram import CHUNK
from heredity.kernels.pair import add_pair
from heredity.measure import PIECE, RANGE, Job, measure_range

_STEP = 1 << 16  # elements that are read and multiplied at a time: a step of two inputs stays in the cache


def measure(inputs: Sequence[Checkpoint], name: str) -> TensorGram:
    """Return the Gram matrix of a tensor, the first input as reference; one streamed read of every input.

    Raises:
        CheckpointError: a weight is NaN or infinite; naming the file.
    """
    if len(inputs) == 2 and all(given.low_rank(name) is None for given in inputs):
        pair = _pair(inputs, name)
        if pair is not None:
            return pair
    info, count = inputs[0].info(name), len(inputs)
    tensor = Common(name, info.shape, (Source(name),) * count)
    width = max(1, int(np.prod(info.shape[1:], dtype=np.int64)))
    step, piece = max(1, RANGE // width) * width, max(1, PIECE // width) * width
    products, sums = np.zeros((count, count)), np.zeros(count)
    for start in range(0, info.size, step):
        part = measure_range(inputs, Job(tensor, start, min(info.size, start + step), piece, False))
        if part.nonfinite.any():
            bad = inputs[int(np.argmax(part.nonfinite > 0))].info(name)
            raise CheckpointError(
                f"{bad.file}: tensor {bad.name} holds NaN or infinity", "mend or leave out this checkpoint"
            )
        products += part.products
        sums += part.sums
    return msgspec.structs.replace(unmeasured(inputs, name), products=products, sums=sums)


def _pair(inputs: Sequence[Checkpoint], name: str) -> TensorGram | None:
    """Measure two stored tensors; None where a weight is not finite, or all may be zero or too small for float32."""
    size = inputs[0].info(name).size
    found, rows = np.zeros(5), np.zeros((2, CHUNK), np.float32)
    with ExitStack() as stack:
        readers = [stack.enter_context(given.reading(name)) for given in inputs]
        codes = np.array([code_of(reader.dtype) for reader in readers], np.int64)
        widest = max(reader.item_bytes for reader in readers)
        raw = np.empty((2, min(size, _STEP) * widest + 7 & ~7), np.uint8)
        for start in range(0, size, _STEP):
            stop = min(size, start + _STEP)
            for reader, row in zip(readers, raw, strict=True):
                reader.read_raw(start, stop, row)
            add_pair(raw, codes, 0, stop - start, rows, found)
    ww, wd, dd, *sums = found.tolist()
    if not np.isfinite(found).all() or min(ww, dd) < 1e-24 * size:
        return None
    products = np.array([[ww, wd], [wd, dd]])
    return msgspec.structs.replace(unmeasured(inputs, name), products=products, sums=np.array(sums))


def unmeasured(inputs: Sequence[Checkpoint], name: str) -> TensorGram:
    """Return a Gram that names its vectors and knows no product, for methods that need none."""
    info, count = inputs[0].info(name), len(inputs)
    return TensorGram(
        name=name, shape=info.shape, size=info.size, members=tuple(c.name for c in inputs[1:]),
        products=np.full((count, count), np.nan), sums=np.full(count, np.nan),
    )  # fmt: skip


def from_origin(gram: TensorGram) -> TensorGram:
    """Return the Gram of the same vectors about the zero tensor: their differences from it are themselves."""
    raw, sums = gram.raw(), gram.raw_sums()
    members = ("reference", *gram.members)
    return msgspec.structs.replace(
        gram, members=members, products=np.pad(raw, (1, 0)), sums=np.pad(sums, (1, 0))
    )
