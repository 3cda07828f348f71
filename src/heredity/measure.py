"""One streamed pass over a family's files that fills its Gram matrix, in memory that no model's size changes.

A tensor is cut into ranges of whole rows, the same for any number of jobs, any sharding and any memory limit;
ranges are measured anywhere and added up in order, so the result has the same bits however it was made: in
one pass, resumed, or by adding members to a stored Gram, when only their rows are multiplied.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from heredity.blas import one_blas_thread
from heredity.checkpoint import Checkpoint, LowRank, Reader
from heredity.coverage import Common, Source, cover
from heredity.errors import CheckpointError, ConfigError, MismatchError
from heredity.execute import Execution, Serial, Threads, choose
from heredity.family import Family
from heredity.gram import ElementCounts, Gram, TensorGram
from heredity.kernels.decode import code_of
from heredity.kernels.elements import WORDS, count_elements
from heredity.kernels.gram import CHUNK, DELTA, TILE, add_gram, load

if TYPE_CHECKING:
    from heredity.gramfile import Known

RANGE = 1 << 22  # elements of a range, about
PIECE = 1 << 16  # elements read at a time, about: K pieces stay in the cache until they are multiplied

Progress = Callable[[str, int], None]
"""Called with a tensor's name and how many elements of it were measured."""


@dataclass(frozen=True)
class Job:
    """A range of rows of one common tensor; products among the first `known` members are left at zero."""

    tensor: Common
    start: int
    stop: int
    piece: int
    elements: bool
    known: int = 0


@dataclass(frozen=True)
class Partial:
    """What a range adds to a tensor's Gram matrix; `narrow`: float32 would not do, and members were known."""

    products: NDArray[np.float64]
    sums: NDArray[np.float64]
    both: NDArray[np.int64]
    agree: NDArray[np.int64]
    nonfinite: NDArray[np.int64]
    narrow: bool = False

    def plus(self, other: "Partial") -> "Partial":
        """Return the sum of two ranges; what comes from another process may be read-only."""
        return Partial(
            self.products + other.products,
            self.sums + other.sums,
            self.both + other.both,
            self.agree + other.agree,
            self.nonfinite + other.nonfinite,
            self.narrow or other.narrow,
        )


def measure(
    family: Family | Mapping[str, Checkpoint],
    *,
    reference: str | None = None,
    members: Sequence[str] | None = None,
    include_head: bool = False,
    allow_partial: bool = False,
    elements: bool = False,
    nonfinite: Literal["error", "leave out"] = "error",
    jobs: int = 1,
    ray: str | None = None,
    max_memory: int = 512 << 20,
    store: Path | str | None = None,
    progress: Progress | None = None,
) -> Gram:
    """Measure a family: read every file once and return its Gram matrix.

    Args:
        family: a family, or name → checkpoint.
        reference: what task vectors start from; default: the base, else the first member.
        members: names, in order; default: all others, or all if there is no base.
        include_head: count output heads too.
        allow_partial: compare what all share where models differ in tensors; what is left out is recorded.
        elements: also count unchanged elements and agreement of signs.
        nonfinite: "error" stops at the first tensor with NaN or infinity; "leave out" records it and goes on.
        jobs: threads, or tasks at once on the cluster.
        ray: address of a Ray cluster, "local" for one of its own, None for none.
        max_memory: bytes of buffers; fewer jobs run when it is short.
        store: file to keep the Gram in: re-used when the inputs are unchanged, resumed when interrupted; new
            members are read once with the known ones, and only their rows are multiplied.
        progress: called after every range.

    Raises:
        ConfigError: an unknown name, or too little memory for one job.
        MismatchError: tensors or shapes differ and `allow_partial` is off.
        CheckpointError: a file cannot be read, or holds NaN or infinity.
    """
    checkpoints = family.checkpoints() if isinstance(family, Family) else dict(family)
    reference, names = _roles(family, checkpoints, reference, members)
    models = (checkpoints[reference], *(checkpoints[name] for name in names))
    coverage = cover(models[0], dict(zip(names, models[1:], strict=True)), include_head=include_head)
    coverage.check(allow_partial=allow_partial)
    left_out = {
        f"{r.tensor} ({r.member})": r.status
        for r in coverage.rows
        if r.status in ("missing", "extra", "shape")
    }
    execution = choose(_affordable(jobs, len(models), coverage.tensors, max_memory), ray)
    measured: dict[str, tuple[TensorGram, ElementCounts | None]] = {}

    from heredity.gramfile import Keeper

    options = {
        "include_head": include_head,
        "allow_partial": allow_partial,
        "elements": elements,
        "nonfinite": nonfinite,
    }
    keeper = Keeper(None if store is None else Path(store), reference, names, models, options, coverage)
    kept = keeper.finished()
    if kept is not None:
        return kept
    known = keeper.known()
    if known is not None and known.members == frozenset(names):  # members were only taken away
        measured.update({t.name: part for t in coverage.tensors if (part := known.part(t.name)) is not None})
    untouched = len(measured) == len(coverage.tensors)
    if not untouched:
        measured.update(keeper.resumed())
    todo = [tensor for tensor in coverage.tensors if tensor.name not in measured]
    for tensor, total in _with_known(models, names, todo, known, execution, elements, progress):
        if total.nonfinite.any():
            what = _complaint(tensor, models, total.nonfinite)
            if nonfinite == "error":
                raise CheckpointError(
                    what, "leave the model out, or leave such tensors out with --allow-nonfinite"
                )
            left_out[tensor.name] = what
            continue
        measured[tensor.name] = _finished(tensor, names, total, elements)
        keeper.keep(tensor.name, *measured[tensor.name])
    if not measured:
        raise MismatchError("no tensor is left to compare", "; ".join(list(left_out.values())[:1]))
    order = [tensor.name for tensor in coverage.tensors if tensor.name in measured]
    gram = Gram(
        reference=reference,
        members=names,
        tensors={name: measured[name][0] for name in order},
        elements={name: counts for name in order if (counts := measured[name][1]) is not None},
        dtypes={name: main_dtype(m) for name, m in zip((reference, *names), models, strict=True)},
        left_out=left_out,
    )
    if not untouched:  # else the store holds all this, and more
        keeper.finish(gram)
    return gram


def main_dtype(checkpoint: Checkpoint) -> str:
    """Return the dtype in which most of a checkpoint's elements are stored."""
    sizes: dict[str, int] = {}
    for info in checkpoint.tensors.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.size
    return max(sorted(sizes), key=lambda dtype: sizes[dtype]) if sizes else "none"


def measure_range(models: Sequence[Checkpoint], job: Job) -> Partial:
    """Measure one range: read it of every model, multiply, count."""
    k1 = len(models)
    both, agree = np.zeros((2, k1 - 1, k1 - 1), np.int64)
    result = Partial(np.zeros((k1, k1)), np.zeros(k1), both, agree, np.zeros(k1, np.int64))
    with ExitStack() as stack:
        plan = _Rows(models, job, stack)
        for start in range(job.start, job.stop, job.piece):
            plan.add(start, min(job.stop, start + job.piece))
        plan.finish(result)
    if not np.isfinite(result.sums).all() or not np.isfinite(result.products).all() or plan.tiny(result):
        if job.known:
            return replace(result, narrow=True)
        _redo_exactly(models, job, result)
    return result


class _Rows:
    """The models of one range, by how their difference from the reference is had: stored, low rank, zero."""

    def __init__(self, models: Sequence[Checkpoint], job: Job, stack: ExitStack) -> None:
        self.job, self.width = job, int(np.prod(job.tensor.shape[1:], dtype=np.int64))
        sources = job.tensor.sources
        origin = models[0].origin(sources[0].name)
        plain = (
            models[0].low_rank(sources[0].name) is None
        )  # else a difference from it is not one from its base
        self.stored, self.low_rank, readers = [0], [], [stack.enter_context(_reading(models[0], sources[0]))]
        self.factors: list[LowRank] = []
        for row, (model, source) in enumerate(zip(models, sources, strict=True)):
            low_rank = model.low_rank(source.name) if source.rows is None else None
            same = plain and model.origin(source.name) == origin and _same_rows(source, sources[0])
            if row == 0 or (same and low_rank is None):
                continue  # the reference, or a model that holds this very tensor: its difference is zero
            if same and low_rank is not None:
                self.low_rank.append(row)
                self.factors.append(low_rank)
            else:
                self.stored.append(row)
                readers.append(stack.enter_context(_reading(model, source)))
        self.readers = readers
        self.codes = np.array([code_of(reader.dtype) for reader in readers], np.int64)
        n, r = len(readers), -(-len(readers) // TILE) * TILE
        widest = max(reader.item_bytes for reader in readers)
        self.raw = np.empty((n, (min(job.piece, job.stop - job.start) * widest + 7) & ~7), np.uint8)
        self.rows = np.zeros((r, CHUNK), np.float32)
        self.products, self.sums, self.seen = np.zeros((r, r)), np.zeros(r), np.zeros(r, np.uint32)
        self.ranks = np.cumsum([0] + [f.left.shape[1] for f in self.factors])
        if self.factors:
            self.left = np.concatenate([f.scale * f.left.astype(np.float64) for f in self.factors], axis=1)
            self.right = np.concatenate([f.right.astype(np.float64) for f in self.factors])
            self.mixed = np.zeros((n, self.ranks[-1]))
        self.first = sum(row <= job.known for row in self.stored) if job.known else 0
        members = n - 1 + len(self.factors)
        self.both, self.agree = np.zeros((2, members, members), np.int64)

    def add(self, start: int, stop: int) -> None:
        """Read one piece of every stored model and multiply it."""
        n = stop - start
        for reader, row in zip(self.readers, self.raw, strict=True):
            reader.read_raw(start, stop, row)
        add_gram(self.raw, self.codes, n, self.first, self.rows, self.products, self.sums, self.seen)
        if self.factors:
            self._add_mixed(start, stop)
        if self.job.elements:
            self._count(start, stop)

    def finish(self, result: Partial) -> None:
        """Put the numbers where the models are."""
        n, stored = len(self.readers), np.array(self.stored)
        upper = np.triu(self.products[:n, :n])
        result.products[np.ix_(stored, stored)] = upper + np.triu(upper, 1).T
        result.sums[stored] = self.sums[:n]
        if self.factors:
            self._finish_low_rank(result, stored)
        order = np.array([*self.stored[1:], *self.low_rank], np.int64) - 1
        for counts, target in ((self.both, result.both), (self.agree, result.agree)):
            target[np.ix_(order, order)] = counts + np.triu(counts, 1).T

    def tiny(self, result: Partial) -> bool:
        """Say whether squares came near the end of float32's range, so that they must be done in float64."""
        squares = np.diagonal(result.products)[self.stored]
        return bool(
            ((squares < 1e-24 * (self.job.stop - self.job.start)) & (self.seen[: len(squares)] != 0)).any()
        )

    def _add_mixed(self, start: int, stop: int) -> None:
        """⟨Δ, s B A⟩ = s tr(Bᵀ Δ Aᵀ), and the same with w_ref, in float64 over blocks of rows."""
        first, last = start // self.width, stop // self.width
        block = np.empty((len(self.rows), stop - start), np.float32)
        for low in range(0, stop - start, CHUNK):
            width = min(CHUNK, stop - start - low)
            load(self.raw, self.codes, low, width, self.rows)
            block[:, low : low + width] = self.rows[:, :width]
        for row in range(len(self.readers)):
            matrix = block[row].reshape(last - first, self.width).astype(np.float64)
            self.mixed[row] += ((matrix @ self.right.T) * self.left[first:last]).sum(axis=0)

    def _finish_low_rank(self, result: Partial, stored: NDArray[np.int64]) -> None:
        first, last = self.job.start // self.width, self.job.stop // self.width
        left, starts, low = self.left[first:last], self.ranks[:-1], np.array(self.low_rank)
        mixed = np.add.reduceat(self.mixed, starts, axis=1)
        result.products[np.ix_(stored, low)] = mixed
        result.products[np.ix_(low, stored)] = mixed.T
        among = (left.T @ left) * (self.right @ self.right.T)
        among = np.add.reduceat(np.add.reduceat(among, starts, axis=0), starts, axis=1)
        result.products[np.ix_(low, low)] = (among + among.T) / 2
        result.sums[low] = np.add.reduceat(left.sum(axis=0) * self.right.sum(axis=1), starts)

    def _count(self, start: int, stop: int) -> None:
        raw, codes = self.raw, self.codes
        if self.factors:
            first, last = start // self.width, stop // self.width
            dense = np.empty((len(self.factors), 4 * (stop - start)), np.uint8)
            for row, factor in zip(dense, self.factors, strict=True):
                row.view(np.float32)[:] = factor.rows(first, last).reshape(-1)
            wide = max(raw.shape[1], dense.shape[1])
            raw = np.zeros((len(self.raw) + len(dense), wide), np.uint8)
            raw[: len(self.raw), : self.raw.shape[1]] = self.raw
            raw[len(self.raw) :, : dense.shape[1]] = dense
            codes = np.concatenate([codes, np.full(len(dense), DELTA, np.int64)])
        rows = self.rows if len(self.rows) >= len(codes) else np.zeros((len(codes), CHUNK), np.float32)
        changed, negative = np.empty((2, len(codes), WORDS), np.uint64)
        count_elements(raw, codes, stop - start, self.first, rows, changed, negative, self.both, self.agree)


def _measure_elsewhere(models: Sequence[Checkpoint], job: Job) -> Partial:
    with one_blas_thread():
        return measure_range(models, job)


def _redo_exactly(models: Sequence[Checkpoint], job: Job, result: Partial) -> None:
    """Count NaN and infinity; without them, repeat the products in float64, whose range is wider."""
    size = job.stop - job.start
    result.products[:], result.sums[:], result.nonfinite[:] = 0, 0, 0
    with ExitStack() as stack:
        readers = [
            stack.enter_context(_reading(m, s)) for m, s in zip(models, job.tensor.sources, strict=True)
        ]
        for low in range(0, size, PIECE):
            start, stop = job.start + low, job.start + min(size, low + PIECE)
            values = np.stack([reader.read(start, stop) for reader in readers]).astype(np.float64)
            result.nonfinite[:] += np.count_nonzero(~np.isfinite(values), axis=1)
            if result.nonfinite.any():
                continue
            values[1:] -= values[0]
            result.products[:] += values @ values.T
            result.sums[:] += values.sum(axis=1)


def _with_known(
    models: Sequence[Checkpoint],
    names: tuple[str, ...],
    tensors: Sequence[Common],
    known: "Known | None",
    execution: Execution,
    elements: bool,
    progress: Progress | None,
) -> Iterator[tuple[Common, Partial]]:
    """Measure tensors; of those that a stored Gram has, only the products of members that are new to it.

    A tensor with low-rank differences is measured anew: its products come from matrices that hold the factors
    of all members, and their last bits depend on how many there are. So do those of a tensor that float32 is
    too narrow for.
    """
    added = [] if known is None else [t for t in tensors if known.part(t.name) and not _factored(models, t)]
    taken = {t.name for t in added}
    anew = [t for t in tensors if t.name not in taken]
    if known is not None and added:
        # the known members go first, so that what is new is the last rows
        order = [0, *sorted(range(1, len(models)), key=lambda row: names[row - 1] not in known.members)]
        places = {t.name: t for t in added}
        moved = [replace(t, sources=tuple(t.sources[row] for row in order)) for t in added]
        shuffled = [models[row] for row in order]
        count = len(known.members)
        for tensor, total in _totals(shuffled, moved, execution, elements, progress, count):
            part = known.part(tensor.name)
            if total.narrow or part is None:
                anew.append(places[tensor.name])
            else:
                yield places[tensor.name], _joined(total, part, names, order)
    yield from _totals(models, anew, execution, elements, progress)


def _factored(models: Sequence[Checkpoint], tensor: Common) -> bool:
    pairs = zip(models, tensor.sources, strict=True)
    return any(model.low_rank(source.name) is not None for model, source in pairs)


def _joined(
    total: Partial, part: tuple[TensorGram, ElementCounts | None], names: tuple[str, ...], order: list[int]
) -> Partial:
    """Put the stored products among the new ones, and the members in the order asked for."""
    gram, counts = part
    back = np.argsort(order)
    products, sums = total.products[np.ix_(back, back)], total.sums[back]
    both, agree = (a[np.ix_(back[1:] - 1, back[1:] - 1)] for a in (total.both, total.agree))
    rows = np.array([0, *(names.index(member) + 1 for member in gram.members)])
    products[np.ix_(rows, rows)] = gram.products
    if counts is not None:
        both[np.ix_(rows[1:] - 1, rows[1:] - 1)] = counts.both
        agree[np.ix_(rows[1:] - 1, rows[1:] - 1)] = counts.agree
    return Partial(products, sums, both, agree, total.nonfinite[back])


def _totals(
    models: Sequence[Checkpoint],
    tensors: Sequence[Common],
    execution: Execution,
    elements: bool,
    progress: Progress | None,
    known: int = 0,
) -> Iterator[tuple[Common, Partial]]:
    with one_blas_thread():  # products of factors must not depend on the number of threads
        yield from _added_up(models, tensors, execution, elements, progress, known)


def _added_up(
    models: Sequence[Checkpoint],
    tensors: Sequence[Common],
    execution: Execution,
    elements: bool,
    progress: Progress | None,
    known: int,
) -> Iterator[tuple[Common, Partial]]:
    jobs = [job for tensor in tensors for job in _ranges(tensor, elements, known)]
    here = isinstance(execution, Serial | Threads)
    task = partial(measure_range if here else _measure_elsewhere, tuple(models))
    total: Partial | None = None
    for job, part in zip(jobs, execution.map(task, jobs), strict=True):
        total = part if total is None else total.plus(part)
        if progress is not None:
            progress(job.tensor.name, job.stop - job.start)
        if job.stop == job.tensor.size:
            yield job.tensor, total
            total = None


def _ranges(tensor: Common, elements: bool, known: int) -> list[Job]:
    width = max(1, int(np.prod(tensor.shape[1:], dtype=np.int64)))
    step, piece = max(1, RANGE // width) * width, max(1, PIECE // width) * width
    if not tensor.size:
        return []
    starts = range(0, tensor.size, step)
    return [Job(tensor, s, min(tensor.size, s + step), piece, elements, known) for s in starts]


def _finished(
    tensor: Common, names: tuple[str, ...], total: Partial, elements: bool
) -> tuple[TensorGram, ElementCounts | None]:
    gram = TensorGram(
        name=tensor.name, shape=tensor.shape, size=tensor.size, members=names, products=total.products,
        sums=total.sums
    )  # fmt: skip
    if not elements:
        return gram, None
    unchanged = tensor.size - np.diagonal(total.both)
    return gram, ElementCounts(unchanged=unchanged, both=total.both, agree=total.agree)


def _roles(
    family: Family | Mapping[str, Checkpoint], checkpoints: Mapping[str, Checkpoint], reference: str | None,
    members: Sequence[str] | None,
) -> tuple[str, tuple[str, ...]]:  # fmt: skip
    base = family.base if isinstance(family, Family) else None
    if reference is None:
        reference = base.name if base is not None else next(iter(checkpoints))
        others = [name for name in checkpoints if base is None or name != reference]
    else:
        others = [name for name in checkpoints if name != reference]
    names = tuple(others if members is None else members)
    for name in (reference, *names):
        if name not in checkpoints:
            raise ConfigError(f"no member is named {name!r}", f"members: {', '.join(checkpoints)}")
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            "a Gram matrix needs at least one member besides the reference, each once", "name members"
        )
    return reference, names


def _affordable(jobs: int, models: int, tensors: Sequence[Common], max_memory: int) -> int:
    piece = max((max(PIECE, int(np.prod(t.shape[1:], dtype=np.int64))) for t in tensors), default=PIECE)
    each = models * (8 * piece + 4 * CHUNK) + 8 * (models + 3) ** 2
    if each > max_memory:
        raise ConfigError(
            f"{models} models need {each >> 20} MB of buffers, --max-memory allows {max_memory >> 20}",
            "raise it",
        )
    return min(jobs, max_memory // each)


def _complaint(tensor: Common, models: Sequence[Checkpoint], nonfinite: NDArray[np.int64]) -> str:
    row = int(np.flatnonzero(nonfinite)[0])
    info = models[row].info(tensor.sources[row].name)
    return f"{info.file}: tensor {info.name}: {nonfinite[row]} of {tensor.size} elements are NaN or infinite"


def _reading(model: Checkpoint, source: Source) -> AbstractContextManager[Reader]:
    return model.reading(source.name) if source.rows is None else model.reading_rows(source.name, source.rows)


def _same_rows(a: Source, b: Source) -> bool:
    if a.rows is None or b.rows is None:
        return a.rows is b.rows
    return np.array_equal(a.rows, b.rows)
