"""Digests of files, read once at most: the Hub cache's own sha256, or one kept by (size, mtime, inode).

A digest is a string that names its algorithm, "blake3:…" or "sha256:…". What heredity reads or writes itself is
hashed with BLAKE3: as hard to forge as sha256, and several times cheaper.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from heredity.adapter import AdaptedCheckpoint
from heredity.checkpoint import Checkpoint
from heredity.directfile import ALGORITHM
from heredity.errors import CheckpointError

_BESIDE = ("config.json", "adapter_config.json", "tokenizer.json", "vocab.json", "vocab.txt")
_HASH = re.compile(r"[0-9a-f]{64}")
_HASHERS: dict[str, Any] = {"blake3": blake3, "sha256": hashlib.sha256}  # the first that is known is taken


@dataclass(frozen=True)
class FileState:
    """What identifies a file's contents.

    Attributes:
        file: name inside its checkpoint.
        nbytes: size in bytes.
        mtime_ns: time of the last change, nanoseconds.
        inode: number of the file.
        digest: of the contents; empty if none is known.
    """

    file: str
    nbytes: int
    mtime_ns: int
    inode: int
    digest: str = ""

    def same_as(self, other: "FileState") -> bool:
        """Say whether both have the same contents: equal digests if one algorithm has both, else an untouched file."""
        if (self.file, self.nbytes) != (other.file, other.nbytes):
            return False
        if self.digest and algorithm_of(self.digest) == algorithm_of(other.digest):
            return self.digest == other.digest
        return (self.mtime_ns, self.inode) == (other.mtime_ns, other.inode)


def states(checkpoint: Checkpoint) -> tuple[FileState, ...]:
    """Return the states of all files that a checkpoint's numbers depend on.

    Weight files come with the digests that are known without reading; the small files beside them (scale of an
    adapter, tied heads, vocabularies that rows are joined by) are hashed.
    """
    folders = dict.fromkeys([*(file.parent for file in checkpoint.files), *_own_folders(checkpoint)])
    beside = [folder / name for folder in folders for name in _BESIDE if (folder / name).is_file()]
    return (
        *(state(file) for file in checkpoint.files),
        *(replace(state(f), digest=digest_of(f)) for f in beside),
    )


def state(path: Path) -> FileState:
    """Return one file's state, with its digest if it is known without reading."""
    status = path.stat()
    return FileState(path.name, status.st_size, status.st_mtime_ns, status.st_ino, known_digest(path) or "")


def known_digest(path: Path, algorithm: str | None = None) -> str | None:
    """Return a file's digest if the Hub cache or an earlier run has it; None if it must be read.

    Args:
        path: of the file.
        algorithm: "blake3" or "sha256"; None takes any.
    """
    target = path.resolve()
    if algorithm in (None, "sha256") and target.parent.name == "blobs" and _HASH.fullmatch(target.name):
        return f"sha256:{target.name}"  # the Hub names large files by their sha256
    known, key = _read_cache(), _key(target)
    found = [known.get((key, name)) for name in _HASHERS if algorithm in (None, name)]
    return next((digest for digest in found if digest), None)


def digest_of(path: Path, algorithm: str | None = None) -> str:
    """Return a file's digest, reading it at most once while it stays untouched.

    Args:
        path: of the file.
        algorithm: "blake3" or "sha256"; None takes what is known, and BLAKE3 for what must be read.

    Raises:
        CheckpointError: there is no such algorithm.
    """
    if algorithm is not None and algorithm not in _HASHERS:
        raise CheckpointError(
            f"{path}: has a digest by {algorithm!r}, which is not known here", f"known: {', '.join(_HASHERS)}"
        )
    known = known_digest(path, algorithm)
    if known:
        return known
    before, name = _key(path.resolve()), algorithm or ALGORITHM
    with path.open("rb") as file:
        digest = f"{name}:{hashlib.file_digest(file, _HASHERS[name]).hexdigest()}"
    if _key(path.resolve()) == before:
        remember(path, digest)
    return digest


def algorithm_of(digest: str) -> str:
    """Return the algorithm that a digest names.

    >>> algorithm_of("blake3:af1349b9")
    'blake3'
    """
    return digest.partition(":")[0]


def known_sha256(path: Path) -> str | None:
    """Return a file's sha256 in hexadecimal, as the Hub shows it, if it is known without reading."""
    digest = known_digest(path, "sha256")
    return digest.removeprefix("sha256:") if digest else None


def sha256_of(path: Path) -> str:
    """Return a file's sha256 in hexadecimal, as the Hub shows it, reading it at most once."""
    return digest_of(path, "sha256").removeprefix("sha256:")


def remember(path: Path, digest: str) -> None:
    """Keep a file's digest for later runs."""
    cache = _cache_file()
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.open("a") as file:
        file.write(json.dumps([_key(path.resolve()), digest]) + "\n")


def cache_folder() -> Path:
    """Return the folder of heredity's own cache: HEREDITY_CACHE, or heredity in the user's cache folder."""
    own = os.environ.get("HEREDITY_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heredity"


def _own_folders(checkpoint: Checkpoint) -> list[Path]:
    """Return where a checkpoint's small files lie; converted weights lie apart from them, in the cache."""
    inner = _own_folders(checkpoint.base) if isinstance(checkpoint, AdaptedCheckpoint) else []
    return [*inner, checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent]


def _cache_file() -> Path:
    return cache_folder() / "digests.jsonl"


def _key(path: Path) -> str:
    status = path.stat()
    return f"{path}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"


def _read_cache() -> dict[tuple[str, str], str]:
    """Return (file, algorithm) → digest; a line that is cut short or names no algorithm counts for nothing."""
    cache = _cache_file()
    if not cache.exists():
        return {}
    known: dict[tuple[str, str], str] = {}
    for line in cache.read_text().splitlines():
        try:
            key, digest = json.loads(line)
        except ValueError:
            continue  # cut short by a crash: the file is hashed again
        known[key, algorithm_of(digest)] = digest
    return known
