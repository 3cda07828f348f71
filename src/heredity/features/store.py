"""Activations on disk: one row per token of a shared stream, memory-mapped, in shards.

FOLDER/activations-00000.bin …   little-endian rows [tokens, d], float16 or float32, `shard_tokens` rows each
FOLDER/meta.json                 written last: a store without it is not finished
"""

import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from jaxtyping import Float, Float32, Int64
from msgspec import Struct
from numpy import ndarray

from heredity.atomic import write_bytes, writing
from heredity.errors import DiskFullError, MismatchError, StoreError

DTYPES = ("float16", "float32")


class StoreMeta(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a store holds, and of which model, site and stream; `ends` stood around every context."""

    schema: int = 1
    member: str
    model_digest: str
    site: str
    stream_digest: str
    context: int
    n_tokens: int
    d: int
    dtype: str
    shard_tokens: int
    ends: tuple[int, int] | None = None

    @property
    def n_shards(self) -> int:
        """How many files hold the rows."""
        return -(-self.n_tokens // self.shard_tokens)

    def rows_of(self, shard: int) -> tuple[int, int]:
        """Return the first and one past the last token of a shard."""
        return shard * self.shard_tokens, min((shard + 1) * self.shard_tokens, self.n_tokens)


class ActivationStore:
    """Activations of one member at one site, for every token of a stream."""

    def __init__(self, path: Path, meta: StoreMeta) -> None:
        self.path, self.meta = path, meta

    @classmethod
    def open(cls, path: Path | str) -> "ActivationStore":
        """Open a finished store; rows are read when asked for.

        Raises:
            StoreError: it is missing, unfinished, or a shard has another size than its meta.json says.
        """
        path = Path(path)
        record = path / "meta.json"
        if not record.exists():
            raise StoreError(
                f"{path}: no finished activation store (no meta.json)", "harvest it, or resume the harvest"
            )
        meta = _record(record)
        store = cls(path, meta)
        for shard in range(meta.n_shards):
            start, stop = meta.rows_of(shard)
            want, file = (stop - start) * meta.d * np.dtype(meta.dtype).itemsize, shard_file(path, shard)
            have = file.stat().st_size if file.exists() else 0
            if have != want:
                raise StoreError(
                    f"{file}: {have} bytes, should be {want}", "delete the store and harvest again"
                )
        return store

    @property
    def n_tokens(self) -> int:
        """Rows in the store."""
        return self.meta.n_tokens

    @property
    def d(self) -> int:
        """Width of a row."""
        return self.meta.d

    @cached_property
    def shards(self) -> tuple[Float[ndarray, "tokens d"], ...]:
        """The rows of every shard, memory-mapped read-only."""
        return tuple(
            np.memmap(shard_file(self.path, i), self.meta.dtype, "r").reshape(-1, self.d)
            for i in range(self.meta.n_shards)
        )

    def read(self, start: int, stop: int) -> Float32[ndarray, "tokens d"]:
        """Return rows start … stop − 1 in float32."""
        stop = min(stop, self.n_tokens)
        out = np.empty((max(0, stop - start), self.d), np.float32)
        at = start
        while at < stop:
            shard = at // self.meta.shard_tokens
            first, last = self.meta.rows_of(shard)
            upto = min(stop, last)
            out[at - start : upto - start] = self.shards[shard][at - first : upto - first]
            at = upto
        return out

    def take(self, rows: Int64[ndarray, " n"]) -> Float32[ndarray, "n d"]:
        """Return the named rows, in the order asked for, in float32."""
        out = np.empty((len(rows), self.d), np.float32)
        shard = rows // self.meta.shard_tokens
        for i in np.unique(shard):
            here = np.flatnonzero(shard == i)
            out[here] = self.shards[i][rows[here] - i * self.meta.shard_tokens]
        return out

    def batches(self, n: int) -> Iterator[tuple[int, Float32[ndarray, "tokens d"]]]:
        """Yield (first token, rows) over the whole store in order, n rows at a time."""
        for start in range(0, self.n_tokens, n):
            yield start, self.read(start, start + n)


class StoreWriter:
    """Writes a store shard by shard; whatever shard is on disk is never written again."""

    def __init__(self, path: Path, meta: StoreMeta) -> None:
        """Start a store, or go on with one.

        Raises:
            MismatchError: the folder holds a store, finished or not, of something else.
            DiskFullError: there is no room for the rest of it.
        """
        self.path, self.meta = path, meta
        plan = path / "plan.json"
        for record in (path / "meta.json", plan):
            if not record.exists():
                continue
            before, now = msgspec.to_builtins(_record(record)), msgspec.to_builtins(meta)
            for field in now:
                if before[field] != now[field]:
                    raise MismatchError(
                        f"{path}: holds activations of another {field} ({before[field]!r}, not {now[field]!r})",
                        "use another folder, or delete this one",
                    )
        path.mkdir(parents=True, exist_ok=True)
        self.missing = [i for i in range(meta.n_shards) if not shard_file(path, i).exists()]
        check_room(path, self.need_bytes)
        if self.missing:
            write_bytes(plan, msgspec.json.encode(meta))

    @property
    def need_bytes(self) -> int:
        """Bytes of the shards that are not on disk."""
        rows = sum(b - a for a, b in map(self.meta.rows_of, self.missing))
        return rows * self.meta.d * np.dtype(self.meta.dtype).itemsize

    def write(self, shard: int, rows: Float[ndarray, "tokens d"]) -> None:
        """Write one shard whole."""
        with writing(shard_file(self.path, shard)) as file:
            file.write(np.ascontiguousarray(rows, self.meta.dtype).tobytes())

    def finish(self) -> ActivationStore:
        """Declare the store complete and open it."""
        write_bytes(self.path / "meta.json", msgspec.json.encode(self.meta))
        (self.path / "plan.json").unlink(missing_ok=True)
        return ActivationStore.open(self.path)


def check_room(path: Path, need_bytes: int) -> None:
    """Check, before any work, that a disk has room for activations.

    Raises:
        DiskFullError: it has not.
    """
    free = shutil.disk_usage(path).free
    if need_bytes > free:
        raise DiskFullError(
            f"{path}: needs {need_bytes:,} bytes, {free:,} are free",
            "free some space, harvest fewer tokens, or use float16",
        )


def _record(file: Path) -> StoreMeta:
    try:
        return msgspec.json.decode(file.read_bytes(), type=StoreMeta)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise StoreError(
            f"{file}: not the record of an activation store ({error})", "harvest again"
        ) from None


def shard_file(path: Path, shard: int) -> Path:
    """Name a shard's file."""
    return path / f"activations-{shard:05d}.bin"
