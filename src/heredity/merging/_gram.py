"""Pass 1 of a merge: the Gram matrix of one tensor of the inputs, right before its pass 2 finds it in the cache."""

from collections.abc import Sequence
from contextlib import ExitStack

import msgspec
import numpy as np

from heredity.checkpoint import Checkpoint
from heredity.errors import CheckpointError
from heredity.gram import TensorGram
from heredity.kernels.decode import code_of
from heredity.kernels.gram import CHUNK, TILE, add_gram

_BUFFER_BYTES = 32 << 20


def measure(inputs: Sequence[Checkpoint], name: str) -> TensorGram:
    """Return the Gram matrix of a tensor, the first input as reference; one streamed read of every input.

    Raises:
        CheckpointError: a weight is NaN or infinite; naming the input.
    """
    infos = [checkpoint.info(name) for checkpoint in inputs]
    padded = -(-len(inputs) // TILE) * TILE
    codes = np.array([code_of(info.dtype) for info in infos], np.int64)
    rows = np.zeros((padded, CHUNK), np.float32)
    products, sums = np.zeros((padded, padded)), np.zeros(padded)
    seen = np.zeros(padded, np.uint32)
    size, widest = infos[0].size, max(info.item_bytes for info in infos)
    step = max(CHUNK, min(1 << 18, _BUFFER_BYTES // (widest * len(inputs))) // CHUNK * CHUNK)
    raw = np.empty((len(inputs), min(step, max(size, 1)) * widest + 8 & ~7), np.uint8)
    with ExitStack() as stack:
        readers = [stack.enter_context(checkpoint.reading(name)) for checkpoint in inputs]
        for start in range(0, size, step):
            stop = min(size, start + step)
            for reader, row in zip(readers, raw, strict=True):
                reader.read_raw(start, stop, row)
            add_gram(raw, codes, stop - start, 0, rows, products, sums, seen)
    count = len(inputs)
    upper = np.triu(products[:count, :count])
    if not np.isfinite(upper).all():
        bad = inputs[int(np.argmin(np.isfinite(np.diagonal(upper))))]
        raise CheckpointError(
            f"{bad.path}: tensor {name} holds NaN or infinity", "mend or leave out this checkpoint"
        )
    return TensorGram(
        name=name, shape=infos[0].shape, size=size, members=tuple(c.name for c in inputs[1:]),
        products=upper + np.triu(upper, 1).T, sums=sums[:count],
    )  # fmt: skip


def unmeasured(inputs: Sequence[Checkpoint], name: str) -> TensorGram:
    """Return a Gram that names its vectors and knows no product, for methods that need none."""
    info, count = inputs[0].info(name), len(inputs)
    return TensorGram(
        name=name, shape=info.shape, size=info.size, members=tuple(c.name for c in inputs[1:]),
        products=np.full((count, count), np.nan), sums=np.full(count, np.nan),
    )  # fmt: skip


def from_origin(gram: TensorGram) -> TensorGram:
    """Return the Gram of the same vectors with the zero tensor as reference, so that task vectors are the weights."""
    raw, sums = gram.raw(), gram.raw_sums()
    return msgspec.structs.replace(
        gram, members=("reference", *gram.members), products=np.pad(raw, (1, 0)), sums=np.pad(sums, (1, 0))
    )
