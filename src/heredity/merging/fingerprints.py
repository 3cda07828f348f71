"""Know whether a file changed, and its sha256 without reading it again.

A file's fingerprint is (size, mtime, inode). Its hash comes from the Hub cache's own name for the file, or from a
small cache of hashes by fingerprint; only when asked is the file read.
"""

import hashlib
import json
import os
import re
from pathlib import Path

from heredity.atomic import write_text

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIECE = 1 << 22


def fingerprint(file: Path) -> list[int]:
    """Return size in bytes, mtime in nanoseconds and inode of a file (of its target, where it is a link)."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def sha256_of(file: Path) -> str:
    """Read a file and return its sha256."""
    digest, buffer = hashlib.sha256(), bytearray(_PIECE)
    with file.open("rb", buffering=0) as source:
        while count := source.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def known_sha256(file: Path, *, compute: bool) -> str | None:
    """Return a file's sha256 if it is known or may be computed, else None.

    Args:
        file: any file.
        compute: read the file when nobody knows, and remember.
    """
    target = file.resolve()
    if target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
        return target.name  # the Hub cache names large files by their hash
    entry, mark = _entry(target), fingerprint(target)
    if entry.exists():
        kept = json.loads(entry.read_text())
        if kept["fingerprint"] == mark:
            return str(kept["sha256"])
    if not compute:
        return None
    found = sha256_of(target)
    write_text(entry, json.dumps({"path": str(target), "fingerprint": mark, "sha256": found}))
    return found


def _entry(target: Path) -> Path:
    name = hashlib.sha256(str(target).encode()).hexdigest()[:32]
    return cache_folder() / "hashes" / f"{name}.json"


def cache_folder() -> Path:
    """Return heredity's cache: HEREDITY_CACHE, else XDG_CACHE_HOME/heredity, else ~/.cache/heredity."""
    if "HEREDITY_CACHE" in os.environ:
        return Path(os.environ["HEREDITY_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heredity"
