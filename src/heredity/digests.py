"""sha256 of input files, read once at most: the Hub cache's own, or one kept by (size, mtime, inode)."""

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from heredity.adapter import AdaptedCheckpoint
from heredity.checkpoint import Checkpoint

_BESIDE = ("config.json", "adapter_config.json", "tokenizer.json", "vocab.json", "vocab.txt")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileState:
    """What identifies a file's contents.

    Attributes:
        file: name inside its checkpoint.
        nbytes: size in bytes.
        mtime_ns: time of the last change, nanoseconds.
        inode: number of the file.
        sha256: of the contents; empty if it has never been computed.
    """

    file: str
    nbytes: int
    mtime_ns: int
    inode: int
    sha256: str = ""

    def same_as(self, other: "FileState") -> bool:
        """Say whether both have the same contents: equal hashes if both are known, else an untouched file."""
        if (self.file, self.nbytes) != (other.file, other.nbytes):
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return (self.mtime_ns, self.inode) == (other.mtime_ns, other.inode)


def states(checkpoint: Checkpoint) -> tuple[FileState, ...]:
    """Return the states of all files that a checkpoint's numbers depend on.

    Weight files come with the hashes that are known without reading; the small files beside them (scale of an
    adapter, tied heads, vocabularies that rows are joined by) are hashed.
    """
    folders = dict.fromkeys([*(file.parent for file in checkpoint.files), *_own_folders(checkpoint)])
    beside = [folder / name for folder in folders for name in _BESIDE if (folder / name).is_file()]
    return (
        *(state(file) for file in checkpoint.files),
        *(replace(state(f), sha256=sha256_of(f)) for f in beside),
    )


def state(path: Path) -> FileState:
    """Return one file's state, with its hash if it is known without reading."""
    status = path.stat()
    return FileState(path.name, status.st_size, status.st_mtime_ns, status.st_ino, known_sha256(path) or "")


def known_sha256(path: Path) -> str | None:
    """Return a file's sha256 if the Hub cache or an earlier run has it; None if it must be read."""
    target = path.resolve()
    if target.parent.name == "blobs" and _HASH.fullmatch(target.name):
        return target.name  # the Hub names large files by their sha256
    return _read_cache().get(_key(target))


def sha256_of(path: Path) -> str:
    """Return a file's sha256, reading it at most once while it stays untouched."""
    known = known_sha256(path)
    if known:
        return known
    before = _key(path.resolve())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if _key(path.resolve()) == before:
        remember(path, digest)
    return digest


def remember(path: Path, digest: str) -> None:
    """Keep a file's sha256 for later runs."""
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


def _read_cache() -> dict[str, str]:
    cache = _cache_file()
    if not cache.exists():
        return {}
    known: dict[str, str] = {}
    for line in cache.read_text().splitlines():
        try:
            key, digest = json.loads(line)
        except ValueError:
            continue  # a line cut short by a crash: the file is hashed again
        known[key] = digest
    return known
