"""A model as a point: coefficients over a family, written as a checkpoint or poured into a live model.

Source: Gueta et al. 2023, regions of weight space; a linear merge, a path, a hull sample and a centroid are
points.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heredity.checkpoint import Checkpoint
from heredity.errors import ConfigError, MismatchError

_BUFFER_BYTES = 32 << 20


class Point:
    """Σ_i c_i w_i over the raw weights of named members.

    Attributes:
        members: names, in the order of summation.
        coefficients: float64[n] for every tensor, or tensor name → float64[n].

    >>> Point(("lua", "stories"), [0.5, 0.5]).for_tensor("lm_head.weight")
    array([0.5, 0.5])
    """

    def __init__(self, members: Sequence[str], coefficients: ArrayLike | Mapping[str, ArrayLike]) -> None:
        self.members = tuple(members)
        if len(set(self.members)) < len(self.members):
            raise ConfigError(
                f"a point names a member twice: {', '.join(self.members)}", "add their coefficients up"
            )
        self.coefficients: NDArray[np.float64] | dict[str, NDArray[np.float64]]
        if isinstance(coefficients, Mapping):
            self.coefficients = {name: self._checked(row, name) for name, row in coefficients.items()}
        else:
            self.coefficients = self._checked(coefficients, "all tensors")

    def for_tensor(self, name: str) -> NDArray[np.float64]:
        """Return the coefficients of one tensor, float64[n].

        Raises:
            MismatchError: the point has coefficients per tensor and none for this one.
        """
        if not isinstance(self.coefficients, dict):
            return self.coefficients
        if name not in self.coefficients:
            raise MismatchError(
                f"the point has no coefficients for tensor {name}", "compute it over the same tensors"
            )
        return self.coefficients[name]

    def __repr__(self) -> str:
        if isinstance(self.coefficients, dict):
            return f"Point({', '.join(self.members)}; {len(self.coefficients)} tensors)"
        terms = " + ".join(f"{c:g}·{m}" for c, m in zip(self.coefficients, self.members, strict=True))
        return f"Point({terms})"

    def _checked(self, row: ArrayLike, where: str) -> NDArray[np.float64]:
        array = np.array(row, np.float64)
        if array.shape != (len(self.members),):
            raise ConfigError(
                f"{len(self.members)} members but coefficients of shape {array.shape} for {where}"
            )
        if not np.isfinite(array).all():
            raise ConfigError(f"coefficients for {where} are not finite: {array.tolist()}")
        array.flags.writeable = False
        return array


def weighted(
    point: Point,
    checkpoints: Mapping[str, Checkpoint],
    tensor: str,
    start: int,
    stop: int,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return elements [start, stop) of Σ_i c_i w_i, float32[stop − start], streamed from the files.

    Accumulates in float32, one fused multiply-add per member in the point's order, so the bits depend
    neither on the range asked for nor on the buffer. Members with a coefficient of exactly 0 are not read.

    Args:
        point: coefficients.
        checkpoints: member name → checkpoint; every member of the point.
        tensor: name of the tensor.
        start: first flat element.
        stop: one past the last.
        out: float32[stop − start] to fill, contiguous.

    Raises:
        MismatchError: a member is missing, or shapes differ.
        CheckpointError: a file cannot be read.
    """
    coefficients = point.for_tensor(tensor)
    used = [
        (checkpoints_of(checkpoints, m), c)
        for m, c in zip(point.members, coefficients, strict=True)
        if c != 0
    ]
    check_shapes(tensor, [c for c, _ in used])
    return combine(used, tensor, start, stop, out)


def combine(
    terms: Sequence[tuple[Checkpoint, float]],
    tensor: str,
    start: int,
    stop: int,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return elements [start, stop) of Σ c·w over (checkpoint, coefficient) pairs, in their order."""
    from heredity.kernels.combine import weighted_sum
    from heredity.kernels.decode import code_of

    out = np.empty(stop - start, np.float32) if out is None else out
    if not terms or start == stop:
        out[:] = 0
        return out
    factors = np.array([c for _, c in terms], np.float32)
    with ExitStack() as stack:
        readers = [stack.enter_context(checkpoint.reading(tensor)) for checkpoint, _ in terms]
        codes = np.array([code_of(reader.dtype) for reader in readers], np.int64)
        widest = max(reader.item_bytes for reader in readers)
        step = max(1 << 12, min(1 << 16, _BUFFER_BYTES // (widest * len(terms))) & ~0xFFF)
        raw = np.empty((len(terms), (min(step, stop - start) * widest + 7) & ~7), np.uint8)
        for low in range(start, stop, step):
            high = min(stop, low + step)
            for reader, row in zip(readers, raw, strict=True):
                reader.read_raw(low, high, row)
            weighted_sum(raw, codes, factors, out[low - start : high - start])
    return out


def checkpoints_of(checkpoints: Mapping[str, Checkpoint], member: str) -> Checkpoint:
    """Return a member's checkpoint.

    Raises:
        MismatchError: there is none of that name.
    """
    if member not in checkpoints:
        raise MismatchError(f"no checkpoint for member {member}", f"have: {', '.join(sorted(checkpoints))}")
    return checkpoints[member]


def check_shapes(tensor: str, checkpoints: Sequence[Checkpoint]) -> None:
    """Check that all checkpoints have a tensor in one shape.

    Raises:
        MismatchError: naming both files, the tensor and both shapes.
    """
    for other in checkpoints[1:]:
        first, second = checkpoints[0].info(tensor), other.info(tensor)
        if first.shape != second.shape:
            raise MismatchError(
                f"tensor {tensor}: {[*first.shape]} in {first.file}, {[*second.shape]} in {second.file}",
                "these models do not have one architecture or one vocabulary",
            )
