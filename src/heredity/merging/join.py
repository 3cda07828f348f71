"""Merge models of different vocabularies: rows of embeddings and heads are matched by token string.

A token that a model lacks gets, as in mergekit 0.1.5: what the recipe says of it; else the row of the one model
that has it; else the base's, if the base has it; else the mean over those that have it; zero if none has. Rows
that only pad get the mean of the model's own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from heredity.checkpoint import Checkpoint
from heredity.errors import ConfigError, MismatchError
from heredity.header import TensorInfo
from heredity.lowrank import LowRank
from heredity.merging._open import location, tokenized
from heredity.merging.lazy import MergedCheckpoint
from heredity.merging.plan import Group, holds_tokens
from heredity.merging.tokenizer_files import with_tokens
from heredity.merging.tokens import TokenRow, Tokens
from heredity.readers import Reader
from heredity.vocabulary import vocabulary_in

Rows = dict[str, int]
_STEP = 1 << 18  # elements that are read at once for a mean
_NO_ROW, _PADDING = -1, -2  # in the place of a row's number: zeros, and the mean of all others


class _Open(Protocol):
    def __call__(self, name: str) -> Checkpoint: ...


def join_vocabularies(
    groups: Sequence[Group], base: str | None, wanted: Tokens, opened: _Open, notes: list[str]
) -> tuple[tuple[Group, ...], dict[str, Any], Path]:
    """Return groups with the rows of the result's tokens, changes of the configuration, and whose tokenizer.

    Args:
        groups: of the plan, with the models' own rows.
        base: name of the base, if there is one.
        wanted: whose tokens the result has.
        opened: returns a model by its name.
        notes: receives what was decided.

    Raises:
        ConfigError: a token's row is to come from a model or a row that is not there.
        MismatchError: a model has no tokenizer file from which its tokens can be read.
    """
    inputs = {location(c): c for group in groups for c in group.inputs}
    tables = {place: _tokens(checkpoint) for place, checkpoint in inputs.items()}
    first = groups[0].inputs[0] if base is None else opened(base)
    source = first if wanted.source in ("union", "base") else opened(wanted.source)
    own = tables.get(location(source)) or _tokens(source)
    result = _union(own, list(tables.values())) if wanted.source == "union" else dict(own)
    for token in wanted.rows:
        result.setdefault(token, max(result.values()) + 1)
    used = max(result.values()) + 1
    multiple = wanted.pad_to_multiple_of or 1
    held = {_token_rows(checkpoint) for checkpoint in inputs.values()}
    same = not wanted.rows and result == own and all(table == own for table in tables.values())
    if same and len(held) == 1 and min(held) % multiple == 0:
        notes.append("all models have the same tokens: rows stay where they are")
        return tuple(groups), {}, _tokenizer(source)
    size = -(-used // multiple) * multiple
    notes.append(f"rows joined by token: {used} tokens of the result ({wanted.source}), {size} rows")
    joined = tuple(_joined(group, tables, result, size, location(first), wanted, opened) for group in groups)
    added = {token: row for token, row in result.items() if token not in own}
    folder = _tokenizer(source)
    tokenizer = with_tokens(folder, added, list(inputs.values())) if added else folder
    return joined, {"vocab_size": size}, tokenizer


class JoinedCheckpoint(Checkpoint):
    """A checkpoint whose token rows are put in another order, and completed from other models.

    Attributes:
        stored: the checkpoint itself.
    """

    def __init__(
        self,
        inner: Checkpoint,
        size: int,
        rows: Int64[ndarray, "tokens"],
        borrowed: Mapping[int, Sequence[tuple[Checkpoint, int]]],
    ) -> None:
        tensors = {n: _resized(i, size) if holds_tokens(n) else i for n, i in inner.tensors.items()}
        super().__init__(inner.path, tensors, inner.config, name=inner.name, metadata=inner.metadata)
        self.stored, self._size, self._rows, self._borrowed = inner, size, rows, dict(borrowed)

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedCheckpoint, (self.stored, self._size, self._rows, self._borrowed)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the model itself."""
        return self.stored.files

    def origin(self, name: str) -> TensorInfo:
        """Return where a tensor lies; rows of tokens are no other model's, whatever file they come from."""
        if not holds_tokens(name):
            return self.stored.origin(name)
        return replace(self.info(name), file=Path(f"<rows of {location(self.stored)}>"))

    def low_rank(self, name: str) -> LowRank | None:
        """Return what is added to the stored tensor; rows of tokens are read as a whole."""
        return None if holds_tokens(name) else self.stored.low_rank(name)

    @contextmanager
    def reading(self, name: str) -> Iterator[Reader]:
        """Open a tensor; rows of tokens are gathered as they are read."""
        with self.stored.reading(name) as reader:
            if not holds_tokens(name):
                yield reader
                return
            width = int(np.prod(self.info(name).shape[1:], dtype=np.int64))
            foreign = {row: _mean_row(terms, name, width) for row, terms in self._borrowed.items()}
            gathered = _Gathered(reader, self._rows, foreign, width)
            if self._rows[-1] == _PADDING:
                gathered.pad()
            yield gathered


class _Gathered:
    """Rows of a tensor in another order, as float32."""

    dtype, item_bytes = "F32", 4

    def __init__(
        self,
        reader: Reader,
        rows: Int64[ndarray, "n"],
        foreign: Mapping[int, Float32[ndarray, "w"]],
        width: int,
    ) -> None:
        self._reader, self._rows, self._foreign, self._width = reader, rows, foreign, width
        self.size = len(rows) * width
        self._padding = np.zeros(width, np.float32)

    def pad(self) -> None:
        """Let the rows that only pad be the mean of all others; reads them once."""
        used = int(np.count_nonzero(self._rows != _PADDING))  # they come last
        total = np.zeros(self._width)
        step = max(1, _STEP // self._width)
        for row in range(0, used, step):
            last = min(used, row + step)
            part = self.read(row * self._width, last * self._width)
            total += part.reshape(-1, self._width).sum(axis=0, dtype=np.float64)
        self._padding = (total / used).astype(np.float32)

    def read_raw(self, start: int, stop: int, buffer: ndarray) -> int:
        """Fill the head of `buffer` with float32 elements [start, stop)."""
        self.read(start, stop, buffer[: 4 * (stop - start)].view(np.float32))
        return 4 * (stop - start)

    def read(self, start: int, stop: int, out: ndarray | None = None) -> ndarray:
        """Return elements [start, stop)."""
        out = np.empty(stop - start, np.float32) if out is None else out
        width = self._width
        for row in range(start // width, -(-stop // width)):
            if row in self._foreign:
                values = self._foreign[row]
            elif self._rows[row] == _PADDING:
                values = self._padding
            elif self._rows[row] == _NO_ROW:
                values = np.zeros(width, np.float32)
            else:
                begin = int(self._rows[row]) * width
                values = self._reader.read(begin, begin + width)
            low, high = max(start, row * width), min(stop, (row + 1) * width)
            out[low - start : high - start] = values[low - row * width : high - row * width]
        return out


def _joined(
    group: Group,
    tables: Mapping[str, Rows],
    result: Rows,
    size: int,
    base: str,
    wanted: Tokens,
    opened: _Open,
) -> Group:
    places = [location(checkpoint) for checkpoint in group.inputs]
    has = [
        {token: row for token, row in tables[place].items() if token in result and row < _token_rows(c)}
        for place, c in zip(places, group.inputs, strict=True)
    ]
    base_place = places.index(base) if base in places else None
    asked = {token: _asked_row(token, row, group, tables, opened) for token, row in wanted.rows.items()}
    used = max(result.values()) + 1
    views = []
    for place, checkpoint in enumerate(group.inputs):
        rows = np.full(size, _NO_ROW, np.int64)
        rows[used:] = _PADDING
        borrowed: dict[int, list[tuple[Checkpoint, int]]] = {}
        for token, target in result.items():
            if token in has[place] and not (token in asked and wanted.rows[token].force):
                rows[target] = has[place][token]
                continue
            if token in asked:
                terms = asked[token]
            else:
                owners = [i for i, table in enumerate(has) if token in table]
                if len(owners) > 1 and base_place in owners:
                    owners = [base_place]
                terms = [(group.inputs[i], has[i][token]) for i in owners]
            if terms:
                borrowed[target] = terms
        views.append(JoinedCheckpoint(checkpoint, size, rows, borrowed))
    return group._replace(inputs=tuple(views))


def _asked_row(
    token: str, wanted: TokenRow, group: Group, tables: Mapping[str, Rows], opened: _Open
) -> list[tuple[Checkpoint, int]]:
    """Return the checkpoint and its row that a recipe names for a token; none for zeros."""
    if wanted.model is None:
        return []
    place = location(opened(wanted.model))
    checkpoint = next((c for c in group.inputs if location(c) == place), None)
    if checkpoint is None:
        raise ConfigError(
            f"token {token!r}: its row comes from {wanted.model}, which is not merged",
            "name a model of the merge",
        )
    row = tables[place].get(wanted.token or token, -1) if wanted.row is None else wanted.row
    if not 0 <= row < _token_rows(checkpoint):
        raise ConfigError(
            f"token {token!r}: {wanted.model} has no row for {wanted.token or token!r}"
            if wanted.row is None
            else f"token {token!r}: {wanted.model} has no row {row}",
            f"it has {_token_rows(checkpoint)} rows",
        )
    return [(checkpoint, row)]


def _mean_row(terms: Sequence[tuple[Checkpoint, int]], name: str, width: int) -> Float32[ndarray, "w"]:
    total = np.zeros(width, np.float32)
    for checkpoint, row in terms:
        total += checkpoint.block(name, row * width, (row + 1) * width)
    return total / np.float32(len(terms))


def _token_rows(checkpoint: Checkpoint) -> int:
    return min((i.shape[0] for n, i in checkpoint.tensors.items() if holds_tokens(n)), default=0)


def _resized(info: TensorInfo, rows: int) -> TensorInfo:
    shape = (rows, *info.shape[1:])
    size = int(np.prod(shape, dtype=np.int64))
    return replace(info, shape=shape, stop=info.start + size * info.item_bytes)


def _tokenizer(checkpoint: Checkpoint) -> Path:
    """Return the folder of a checkpoint's tokenizer; a merge's result has the one that it would be written with."""
    if isinstance(checkpoint, MergedCheckpoint):
        target = checkpoint.merge.target
        return target.tokenizer or _tokenizer(target.donor)
    return tokenized(checkpoint)


def _tokens(checkpoint: Checkpoint) -> Rows:
    found = vocabulary_in(_tokenizer(checkpoint))
    if found is None:
        raise MismatchError(
            f"{checkpoint.path}: has no tokenizer.json, vocab.json or vocab.txt",
            "rows are matched by token string",
        )
    return found


def _union(first: Rows, tables: Sequence[Rows]) -> Rows:
    """Return the first table's rows, then the tokens that it lacks, table by table in order of their rows."""
    result = dict(first)
    following = max(result.values()) + 1
    for table in tables:
        for token in sorted(table, key=table.__getitem__):
            if token not in result:
                result[token] = following
                following += 1
    return result
