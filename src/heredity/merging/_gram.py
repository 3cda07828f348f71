"""Pass 1 of a merge: the Gram matrix of one tensor, right before pass 2 finds it in the page cache."""

from collections.abc import Sequence

import msgspec
import numpy as np

from heredity.checkpoint import Checkpoint
from heredity.coverage import Common, Source
from heredity.errors import CheckpointError
from heredity.gram import TensorGram
from heredity.measure import PIECE, RANGE, Job, measure_range


def measure(inputs: Sequence[Checkpoint], name: str) -> TensorGram:
    """Return the Gram matrix of a tensor, the first input as reference; one streamed read of every input.

    Raises:
        CheckpointError: a weight is NaN or infinite; naming the file.
    """
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
