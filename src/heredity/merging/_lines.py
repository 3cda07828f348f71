"""Span methods with coefficients for every row (last axis) or every column (first axis) of a tensor."""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from heredity.checkpoint import Checkpoint
from heredity.gram import TensorGram
from heredity.merging._blocks import InputBlocks
from heredity.merging._gram import unmeasured
from heredity.merging._method import Block, SpanMethod


def line_blocks(
    inputs: Sequence[Checkpoint], name: str, method: SpanMethod, *, origin: bool
) -> Iterator[Float32[ndarray, "n"]]:
    """Yield the merged elements of a tensor, whole rows at a time.

    Args:
        inputs: base or first model first.
        name: of the tensor.
        method: with the axis "row" or "column"; a tensor of one axis is one row either way.
        origin: the method works on differences from a base and has none: the zero tensor stands in for it.
    """
    shape = inputs[0].info(name).shape
    blocks = InputBlocks(inputs, name, 0, rows=True)
    width = max(shape[-1] if shape else 1, 1)
    gram = unmeasured(inputs, name)
    if method.axis == "row" or len(shape) < 2:
        for block in blocks:
            lines = _stacked(block, origin).reshape(-1, len(block.base) // width, width)
            products = np.einsum("irw,jrw->rij", lines, lines, dtype=np.float64)
            chosen = _each(method, gram, products, origin)
            yield _combined(block, chosen.T[:, :, None], width)
    else:
        columns = blocks.size // shape[0]
        products = np.zeros((columns, len(inputs) + origin, len(inputs) + origin))
        for block, part, run in _runs(blocks, columns):
            lines = _stacked(block, origin)[:, part]
            products[run] += np.einsum("in,jn->nij", lines, lines, dtype=np.float64)
        chosen = _each(method, gram, products, origin).T
        for block in blocks:
            places = np.arange(block.start, block.start + len(block.base)) % columns
            yield _combined(block, chosen[:, places].reshape(len(inputs), -1, width), width)


def _runs(blocks: InputBlocks, columns: int) -> Iterator[tuple[Block, slice, slice]]:
    """Yield the parts of blocks in which no column comes twice, with their columns."""
    for block in blocks:
        done = 0
        while done < len(block.base):
            column = (block.start + done) % columns
            count = min(columns - column, len(block.base) - done)
            yield block, slice(done, done + count), slice(column, column + count)
            done += count


def _stacked(block: Block, origin: bool) -> Float32[ndarray, "inputs n"]:
    """Return the reference and the differences from it."""
    if origin:
        return np.concatenate([np.zeros_like(block.base)[None], block.base[None], block.models])
    return np.concatenate([block.base[None], block.models - block.base])


def _each(
    method: SpanMethod, gram: TensorGram, products: Float64[ndarray, "lines k k"], origin: bool
) -> Float64[ndarray, "lines inputs"]:
    members = ("reference", *gram.members) if origin else gram.members
    found = [
        method.coefficients(msgspec.structs.replace(gram, members=members, products=one, sums=one[0]))
        for one in products
    ]
    return np.array(found)[:, 1:] if origin else np.array(found)


def _combined(block: Block, chosen: Float64[ndarray, "inputs rows #w"], width: int) -> Float32[ndarray, "n"]:
    weights = chosen.astype(np.float32)
    total = weights[0] * block.base.reshape(-1, width)
    for weight, model in zip(weights[1:], block.models, strict=True):
        total = total + weight * model.reshape(-1, width)
    return np.ascontiguousarray(total, np.float32).reshape(-1)
