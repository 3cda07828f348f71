"""Merge models of different vocabularies: rows of embeddings and heads are matched by token string.

A token that a model lacks gets, as in mergekit 0.1.5: the row of the one model that has it; else the base's,
if the base has it; else the mean over those that have it; zero if none has.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from heredity.atomic import write_text
from heredity.checkpoint import Checkpoint
from heredity.digests import cache_folder
from heredity.errors import MismatchError
from heredity.header import TensorInfo
from heredity.merging.plan import Group, holds_tokens
from heredity.merging.recipe import Recipe
from heredity.readers import Reader
from heredity.vocabulary import vocabulary
from heredity.writer import TOKENIZER_FILES

Rows = dict[str, int]


class _Open(Protocol):
    def __call__(self, name: str) -> Checkpoint: ...


def join_vocabularies(
    groups: Sequence[Group], recipe: Recipe, opened: _Open, notes: list[str]
) -> tuple[tuple[Group, ...], dict[str, Any], Checkpoint | Path]:
    """Return groups with the rows of the result's tokens, changes of the configuration, and whose tokenizer.

    Raises:
        MismatchError: a model has no tokenizer file from which its tokens can be read.
    """
    inputs = {c.path: c for group in groups for c in group.inputs}
    tables = {path: _tokens(checkpoint) for path, checkpoint in inputs.items()}
    first = groups[0].inputs[0] if recipe.base is None else opened(recipe.base)
    wanted = recipe.tokenizer or "base"
    source = first if wanted in ("union", "base") else opened(wanted)
    own = tables.get(source.path) or _tokens(source)
    if all(table == own for table in tables.values()):
        notes.append("all models have the same tokens: rows stay where they are")
        return tuple(groups), {}, source
    result = own
    tokenizer: Checkpoint | Path = source
    if wanted == "union":
        result = _union(own, list(tables.values()))
        tokenizer = _extended(source, result, own, list(inputs.values()))
    size = max(result.values()) + 1
    notes.append(f"rows joined by token: {size} tokens of the result ({wanted})")
    joined = tuple(_joined(group, tables, result, size, first.path) for group in groups)
    return joined, {"vocab_size": size}, tokenizer


class JoinedCheckpoint(Checkpoint):
    """A checkpoint whose token rows are put in another order, and completed from other models."""

    def __init__(
        self,
        inner: Checkpoint,
        size: int,
        rows: Int64[ndarray, "tokens"],
        borrowed: Mapping[int, Sequence[tuple[Checkpoint, int]]],
    ) -> None:
        tensors = {n: _resized(i, size) if holds_tokens(n) else i for n, i in inner.tensors.items()}
        super().__init__(inner.path, tensors, inner.config, name=inner.name, metadata=inner.metadata)
        self._inner, self._size, self._rows, self._borrowed = inner, size, rows, dict(borrowed)

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedCheckpoint, (self._inner, self._size, self._rows, self._borrowed)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the model itself."""
        return self._inner.files

    @contextmanager
    def reading(self, name: str) -> Iterator[Reader]:
        """Open a tensor; rows of tokens are gathered as they are read."""
        with self._inner.reading(name) as reader:
            if not holds_tokens(name):
                yield reader
                return
            width = int(np.prod(self.info(name).shape[1:], dtype=np.int64))
            foreign = {row: _mean_row(terms, name, width) for row, terms in self._borrowed.items()}
            yield _Gathered(reader, self._rows, foreign, width)


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
            elif self._rows[row] < 0:
                values = np.zeros(width, np.float32)
            else:
                begin = int(self._rows[row]) * width
                values = self._reader.read(begin, begin + width)
            low, high = max(start, row * width), min(stop, (row + 1) * width)
            out[low - start : high - start] = values[low - row * width : high - row * width]
        return out


def _joined(group: Group, tables: Mapping[Path, Rows], result: Rows, size: int, base: Path) -> Group:
    has = [
        {token: row for token, row in tables[c.path].items() if token in result and row < _token_rows(c)}
        for c in group.inputs
    ]
    base_place = next((i for i, c in enumerate(group.inputs) if c.path == base), None)
    views = []
    for place, checkpoint in enumerate(group.inputs):
        rows = np.full(size, -1, np.int64)
        borrowed: dict[int, list[tuple[Checkpoint, int]]] = {}
        for token, target in result.items():
            if token in has[place]:
                rows[target] = has[place][token]
                continue
            owners = [i for i, table in enumerate(has) if token in table]
            if len(owners) > 1 and base_place in owners:
                owners = [base_place]
            if owners:
                borrowed[target] = [(group.inputs[i], has[i][token]) for i in owners]
        views.append(JoinedCheckpoint(checkpoint, size, rows, borrowed))
    return group._replace(inputs=tuple(views))


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


def _tokens(checkpoint: Checkpoint) -> Rows:
    found = vocabulary(checkpoint)
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


def _extended(source: Checkpoint, result: Rows, own: Rows, inputs: Sequence[Checkpoint]) -> Path:
    """Write the source's tokenizer with the tokens that it lacks added, into the cache; return its folder."""
    folder = source.path if source.path.is_dir() else source.path.parent
    if not (folder / "tokenizer.json").exists():
        raise MismatchError(f"{folder}: has no tokenizer.json to add tokens to", 'use tokenizer = "base"')
    table = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    known: dict[str, dict[str, Any]] = {}
    for checkpoint in inputs:
        file = (checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent) / "tokenizer.json"
        entries = json.loads(file.read_text(encoding="utf-8")).get("added_tokens") if file.exists() else None
        for entry in entries or []:
            known.setdefault(entry["content"], entry)
    added = [
        {**plain, **known.get(token, {}), "id": row, "content": token}
        for token, row in result.items()
        if token not in own
    ]
    table["added_tokens"] = [*(table.get("added_tokens") or []), *added]
    text = json.dumps(table, ensure_ascii=False)
    target = cache_folder() / "tokenizers" / sha256(text.encode()).hexdigest()[:24]
    target.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (folder / name).is_file() and name != "tokenizer.json":
            shutil.copyfile(folder / name, target / name)
    write_text(target / "tokenizer.json", text)
    return target
