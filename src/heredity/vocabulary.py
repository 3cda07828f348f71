"""Join the rows of embeddings by token string, for models whose vocabularies differ."""

import json
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heredity.checkpoint import Checkpoint
from heredity.errors import CheckpointError


def vocabulary(checkpoint: Checkpoint) -> dict[str, int] | None:
    """Return token → row from tokenizer.json, vocab.json or vocab.txt; None if there is no such file.

    Raises:
        CheckpointError: the file cannot be read.
    """
    return vocabulary_in(_folder(checkpoint))


def vocabulary_in(folder: Path) -> dict[str, int] | None:
    """Return token → row of the tokenizer in a folder, as `vocabulary` does."""
    found = _file(folder)
    return None if found is None else _tokens(found, _digest(found))


def common_rows(checkpoints: Sequence[Checkpoint], *, must_join: bool) -> list[NDArray[np.int64]] | None:
    """Return for each checkpoint the rows of the tokens that all have, in the order of the first one's rows.

    Args:
        checkpoints: the first gives the order.
        must_join: the embeddings have different shapes.

    Returns:
        None if all vocabularies are the same (or unknown), so that rows are compared as they stand.
    """
    files = [_file(_folder(checkpoint)) for checkpoint in checkpoints]
    if any(file is None for file in files):
        return None
    digests = [_digest(file) for file in files if file is not None]
    if len(set(digests)) == 1 and not must_join:
        return None
    tables = [_tokens(file, digest) for file, digest in zip(files, digests, strict=True) if file is not None]
    if not must_join and all(table == tables[0] for table in tables):
        return None
    shared = [
        t for t in sorted(tables[0], key=tables[0].__getitem__) if all(t in other for other in tables[1:])
    ]
    return [np.array([table[token] for token in shared], np.int64) for table in tables]


def _folder(checkpoint: Checkpoint) -> Path:
    return checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent


def _file(folder: Path) -> Path | None:
    for name in ("tokenizer.json", "vocab.json", "vocab.txt"):
        if (folder / name).is_file():
            return folder / name
    return None


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=8)
def _tokens(path: Path, digest: str) -> dict[str, int]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".txt":
            return {line: row for row, line in enumerate(text.splitlines())}
        table: Any = json.loads(text)
        if path.name == "vocab.json":
            return {str(token): int(row) for token, row in table.items()}
        entries = table["model"]["vocab"]
        if isinstance(entries, list):  # a unigram model: [[token, score], …]
            entries = {entry[0]: row for row, entry in enumerate(entries)}
        added = {entry["content"]: entry["id"] for entry in table.get("added_tokens") or []}
        return {str(token): int(row) for token, row in {**entries, **added}.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as a vocabulary ({error!r})", "download or write it again"
        ) from None
