"""Read the members of a .tar.gz, .zip or .whl in memory, never extracted; refuse what could do harm."""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from heredity.corpora.globs import matches
from heredity.errors import ConfigError, CorpusError

LIMIT_BYTES = 2 << 30  # of text out of one archive: a file made to explode stops here

_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile, NotImplementedError)


def members(archive: Path, pattern: str, *, limit_bytes: int = LIMIT_BYTES) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an archive that match a glob, with their bytes, in the archive's order.

    A top folder that all members share (`name-1.0/`) is no part of their paths.

    Raises:
        ConfigError: neither a gzipped tar nor a zip, by its name.
        CorpusError: truncated or corrupt, larger than the limit, a path that leaves the archive, or a match
            that is a link or a device.
    """
    if archive.name.endswith((".tar.gz", ".tgz")):
        found = _tar_members(archive, pattern, limit_bytes)
    elif archive.name.endswith((".zip", ".whl")):
        found = _zip_members(archive, pattern, limit_bytes)
    else:
        raise ConfigError(
            f"{archive.name}: not a kind of archive that is read", "use a .tar.gz, .zip or .whl"
        )
    try:
        yield from found
    except _BROKEN as error:
        raise CorpusError(f"{archive}: cannot be read ({error})", "delete it to fetch it again") from None


def _tar_members(archive: Path, pattern: str, limit_bytes: int) -> Iterator[tuple[str, bytes]]:
    with archive.open("rb") as packed, gzip.open(packed) as unpacked:
        counted = _Limited(cast("IO[bytes]", unpacked), archive, limit_bytes)
        # a stream: one pass that never seeks back; a link is never followed
        with tarfile.open(fileobj=cast("IO[bytes]", counted), mode="r|") as tar:
            kept: list[tuple[str, bytes]] = []
            names: list[str] = []
            for member in tar:
                _refuse_escape(member.name, archive)
                names.append(member.name + ("/" if member.isdir() else ""))
                if not any(matches(path, pattern) for path in (member.name, _below_top(member.name))):
                    continue
                if not member.isfile():
                    if member.isdir():
                        continue
                    raise CorpusError(
                        f"{archive}: member {member.name!r} is a link or a device",
                        "narrow the glob, or exclude it",
                    )
                data = tar.extractfile(member)
                kept.append((member.name, b"" if data is None else data.read()))
    yield from _named(kept, names, pattern)


def _zip_members(archive: Path, pattern: str, limit_bytes: int) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as file:
        entries = file.infolist()
        total = 0
        kept: list[tuple[str, bytes]] = []
        for entry in entries:
            _refuse_escape(entry.filename, archive)
            if entry.is_dir() or not any(
                matches(p, pattern) for p in (entry.filename, _below_top(entry.filename))
            ):
                continue
            kind = entry.external_attr >> 28  # the upper half holds the Unix mode; 0xA is a symbolic link
            if kind not in (0, 0x8):
                raise CorpusError(
                    f"{archive}: member {entry.filename!r} is a link or a device",
                    "narrow the glob, or exclude it",
                )
            if entry.flag_bits & 1:
                raise CorpusError(f"{archive}: member {entry.filename!r} is encrypted", "exclude it")
            total += entry.file_size  # zipfile never yields more than this
            if total > limit_bytes:
                raise _too_large(archive, limit_bytes)
            kept.append((entry.filename, file.read(entry)))
    yield from _named(kept, [entry.filename for entry in entries], pattern)


def _named(kept: list[tuple[str, bytes]], names: list[str], pattern: str) -> Iterator[tuple[str, bytes]]:
    tops = {name.partition("/")[0] for name in names}
    shared = len(tops) == 1 and all("/" in name for name in names)
    for name, data in kept:
        path = _below_top(name) if shared else name
        if matches(path, pattern):
            yield path, data


def _below_top(name: str) -> str:
    return name.partition("/")[2]


def _refuse_escape(name: str, archive: Path) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or "\0" in name or name[1:2] == ":":
        raise CorpusError(f"{archive}: member {name!r} leads out of the archive", "do not use this archive")


def _too_large(archive: Path, limit_bytes: int) -> CorpusError:
    return CorpusError(
        f"{archive}: unpacks to more than {limit_bytes:,} bytes",
        "narrow the glob, or do not use this archive",
    )


class _Limited:
    """A stream that stops when more has been read from it than an honest archive holds."""

    def __init__(self, stream: IO[bytes], archive: Path, limit_bytes: int) -> None:
        self._stream, self._archive, self._limit, self._total = stream, archive, limit_bytes, 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._total += len(data)
        if self._total > self._limit:
            raise _too_large(self._archive, self._limit)
        return data
