"""What is said of a merged tensor in the lock: how its inputs lie to each other, and where the result lies.

Where a method has measured the Gram matrix, from that, exactly. Elsewhere from a few pieces of the tensor, read
again while they are in the page cache: enough for a cosine to about ±0.02, and too few to be felt (`sampled` says
what share they are). What lies in the span of its inputs has its coefficients; of what does not, the nearest
combination of its inputs is found by least squares (`effective`), with the share of the change it explains.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import combinations
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from heredity.checkpoint import Checkpoint
from heredity.gram import TensorGram
from heredity.merging._gram import unmeasured
from heredity.merging._method import Method, SpanMethod
from heredity.merging.lazy import MergedCheckpoint
from heredity.merging.plan import Group

_PIECES = 4
_MOST, _LEAST = 1 << 14, 1 << 11  # elements of a sample: fewer for many inputs
_PAIRS = 15  # cosines that are all told; of more, the range
_TINY = 1e-12


def observed(
    blocks: Iterator[Float32[ndarray, "n"]], group: Group, name: str, facts: dict[str, Any]
) -> Iterator[Float32[ndarray, "n"]]:
    """Pass on the merged blocks of a tensor; once the last one is taken, add to `facts` what was seen."""
    method = group.methods[name]
    if not _is_worth_a_sample(method, group):
        yield from blocks
        return
    pieces = sample_of(group.inputs[0].info(name).shape, len(group.inputs))
    taken = [np.empty(stop - start, np.float32) for start, stop in pieces]
    done = 0
    for block in blocks:
        for piece, (start, stop) in zip(taken, pieces, strict=True):
            low, high = max(start, done), min(stop, done + len(block))
            if low < high:
                piece[low - start : high - start] = block[low - done : high - done]
        done += len(block)
        yield block
    if taken:
        _note(group, name, facts, pieces, np.concatenate(taken))


def sampled(group: Group, name: str, facts: dict[str, Any]) -> None:
    """Add to `facts` what pieces of the inputs show, for a tensor whose coefficients are known."""
    pieces = sample_of(group.inputs[0].info(name).shape, len(group.inputs))
    if pieces and _is_worth_a_sample(group.methods[name], group):
        _note(group, name, facts, pieces, None)


def of_gram(gram: TensorGram, *, deltas: bool) -> dict[str, Any]:
    """Return norms of all inputs, distances from the first one, and cosines of pairs.

    Args:
        gram: of one tensor, the base or the first model as reference.
        deltas: the reference is a base, and the cosines are of task vectors; else of the weights themselves.
    """
    raw = gram.raw()
    norms = np.sqrt(raw.diagonal().clip(0))
    distances = np.sqrt(gram.deltas.diagonal().clip(0))
    products, lengths = (gram.deltas, distances) if deltas else (raw, norms)
    pairs = list(combinations(range(len(lengths)), 2))
    cosines = [
        float(np.clip(products[i, j] / (lengths[i] * lengths[j]), -1, 1)) if lengths[i] * lengths[j] else None
        for i, j in pairs
    ]
    facts: dict[str, Any] = {"norms": norms.tolist(), "distances": distances.tolist()}
    known = [value for value in cosines if value is not None]
    if known:
        facts["cosine"] = float(np.mean(known))
    if known and len(pairs) > 1:
        facts["cosine_range"] = [min(known), max(known)]
    if 1 < len(pairs) <= _PAIRS:
        facts["cosines"] = cosines
    return facts


def task_vectors(method: Method, group: Group) -> bool:
    """Say whether the first input is a base that is not itself merged, so that differences from it count."""
    return group.base and method.inputs.base != "first"


def effective_t(coefficients: Sequence[float], *, deltas: bool) -> float | None:
    """Return where the result lies between two models (0: the first), or None where they are not two.

    Of two models with a base, the second one's share of both task vectors; of one, its share beside the base.
    """
    two = coefficients[1:] if deltas and len(coefficients) > 2 else coefficients
    total = sum(two)
    if len(two) != 2 or abs(total) < _TINY:
        return None
    return float(two[1] / total)


def sample_of(shape: tuple[int, ...], inputs: int) -> list[tuple[int, int]]:
    """Return the ranges of elements that are looked at: all of a small tensor, else whole rows at four places."""
    size = int(np.prod(shape, dtype=np.int64))
    limit = min(_MOST, max(_LEAST, (1 << 19) // inputs**2))
    width = max(shape[-1], 1) if len(shape) > 1 else 1
    rows, each = size // width, max(1, limit // _PIECES // width)
    if size <= limit or rows <= _PIECES * each:
        return [(0, size)] if size else []
    firsts = [(2 * k + 1) * rows // (2 * _PIECES) - each // 2 for k in range(_PIECES)]
    return [(first * width, (first + each) * width) for first in firsts]


def _note(
    group: Group,
    name: str,
    facts: dict[str, Any],
    pieces: Sequence[tuple[int, int]],
    taken: Float32[ndarray, " n"] | None,
) -> None:
    deltas = task_vectors(group.methods[name], group)
    reference, changes = _read(group.inputs, name, pieces)
    scale = group.inputs[0].info(name).size / len(reference)
    products, signs = _measured(reference, changes, scale)
    if not np.isfinite(products).all():
        return
    gram = msgspec.structs.replace(unmeasured(group.inputs, name), products=products)
    seen = of_gram(gram, deltas=deltas)
    if "coefficients" not in facts and taken is not None:
        seen |= _nearest(products, changes, taken - reference, scale, deltas)
    if deltas and len(changes) > 1:
        seen["sign_conflicts"] = signs
    new = {
        key: _short(value) for key, value in seen.items() if key not in facts
    }  # an estimate replaces nothing
    facts |= new | ({"sampled": _short(1 / scale)} if new and scale > 1 else {})


def _is_worth_a_sample(method: Method, group: Group) -> bool:
    if any(isinstance(given, MergedCheckpoint) for given in group.inputs):
        return False  # its pieces would have to be merged once more
    measured = isinstance(method, SpanMethod) and method.axis == "tensor" and method.needs_gram
    return len(group.inputs) > 1 and not (measured and not task_vectors(method, group))


def _read(
    inputs: Sequence[Checkpoint], name: str, pieces: Sequence[tuple[int, int]]
) -> tuple[Float32[ndarray, " n"], Float32[ndarray, "models n"]]:
    """Return the pieces of the first input, and what all others differ from it."""
    found = np.empty((len(inputs), sum(stop - start for start, stop in pieces)), np.float32)
    with ExitStack() as stack:
        for given, row in zip(inputs, found, strict=True):
            reader, at = stack.enter_context(given.reading(name)), 0
            for start, stop in pieces:
                reader.read(start, stop, row[at : at + stop - start])
                at += stop - start
    return found[0], np.subtract(found[1:], found[0], out=found[1:])


def _measured(
    reference: Float32[ndarray, " n"], changes: Float32[ndarray, "models n"], scale: float
) -> tuple[Float64[ndarray, "k1 k1"], float]:
    """Return the Gram matrix of [w_ref, Δ_1 … Δ_K], and the share of elements with Δ of both signs."""
    vectors = np.empty((1 + len(changes), len(reference)))
    vectors[0], vectors[1:] = reference, changes
    opposite = (changes.max(axis=0) > 0) & (changes.min(axis=0) < 0)
    return scale * (vectors @ vectors.T), np.count_nonzero(opposite) / len(opposite)


def _nearest(
    products: Float64[ndarray, "k1 k1"],
    changes: Float32[ndarray, "models n"],
    moved: Float32[ndarray, " n"],
    scale: float,
    deltas: bool,
) -> dict[str, Any]:
    """Return the mixture of whole tensors that comes nearest to the result, and what it explains."""
    length = scale * float(np.dot(moved.astype(np.float64), moved))
    if not 0 < length < np.inf or not products[1:, 1:].any():
        return {}
    chosen = np.linalg.lstsq(products[1:, 1:], scale * (changes.astype(np.float64) @ moved), rcond=1e-10)[0]
    left = moved - chosen @ changes
    facts: dict[str, Any] = {"effective": [1 - chosen.sum(), *chosen]}
    facts["explained"] = 1 - scale * float(left @ left) / length
    if (t := effective_t(facts["effective"], deltas=deltas)) is not None:
        facts["t"] = t
    return facts


def _short(value: Any) -> Any:
    """Round to six digits: an estimate has no more, and the last bits depend on the number of threads."""
    if isinstance(value, list):
        return [_short(one) for one in value]
    return None if value is None else float(f"{value:.6g}")
