"""Write a checkpoint as its tensors are produced: constant memory, resumable per shard, whole or not at all.

Shards are hashed while they are written, flushed, and renamed into place; `config.json` comes last, so a
folder that is not finished cannot be loaded. A journal in the folder lets the same job go on after a crash.
"""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heredity.atomic import replacing, sync_folder, write_bytes
from heredity.checkpoint import INDEX, JOURNAL, SINGLE, Checkpoint
from heredity.directfile import hashed_file
from heredity.errors import CheckpointError, ConfigError, naming_full_disk
from heredity.header import DTYPE_BYTES

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_METADATA = {"format": "pt"}
_SCHEMA = 2  # of the journal
DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_OWN = (
    "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json",
    "config.json", "generation_config.json", "adapter_config.json", "README.md", "heredity.toml",
    "heredity.lock.json", *TOKENIZER_FILES,
)  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: name, safetensors dtype, shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return int(np.prod(self.shape, dtype=np.int64)) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Shard:
    """A file to be written: its name and its tensors, in the order in which they are produced."""

    file: str
    tensors: tuple[Planned, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class Written:
    """A finished shard: file name, size in bytes, digest ("blake3:…")."""

    file: str
    nbytes: int
    digest: str


class Fill(NamedTuple):
    """A piece of a tensor that is made right in the buffer that is written.

    Attributes:
        nbytes: its length.
        item_bytes: of one element.
        into: called with the number of the first element and an unsigned integer array to fill, in order.
    """

    nbytes: int
    item_bytes: int
    into: Callable[[int, NDArray[Any]], None]


Produce = Callable[[Planned], Iterable[NDArray[np.uint8] | Fill]]
"""Yields a tensor's bytes in order, in pieces of any size; each is used up before the next is asked for."""


class CheckpointWriter:
    """A checkpoint in the making.

    >>> writer = CheckpointWriter.open("out", plan, job="digest of the recipe and its inputs", resume=True)
    >>> for shard in writer.pending():
    ...     writer.add(write_shard(writer.path, shard, produce))
    >>> writer.finish(donor=Checkpoint.open("base"), files={"README.md": card})

    Attributes:
        path: the folder.
        shards: all shards, finished or not.
        written: finished shards, by file name.
    """

    def __init__(self, path: Path, shards: tuple[Shard, ...], written: dict[str, Written]) -> None:
        self.path, self.shards, self.written = path, shards, written

    @classmethod
    def open(
        cls,
        out: Path | str,
        tensors: Sequence[Planned],
        *,
        job: str,
        shard_bytes: int = 5_000_000_000,
        resume: bool = False,
        overwrite: bool = False,
    ) -> "CheckpointWriter":
        """Prepare the folder: new, resumed, or cleared of an earlier checkpoint.

        Args:
            out: the folder.
            tensors: all tensors, in the order in which they will be produced.
            job: what is made of what; a folder is resumed only by the same job.
            shard_bytes: a shard is closed before it exceeds this (a larger tensor gets its own).
            resume: keep shards that an interrupted run of the same job finished.
            overwrite: remove the checkpoint that is there.

        Raises:
            ConfigError: the folder is not empty, or was started by another job.
        """
        path = Path(out)
        shards = plan_shards(tensors, shard_bytes)
        head: dict[str, str | int] = {"schema": _SCHEMA, "job": job, "plan": _plan_digest(shards)}
        written: dict[str, Written] = {}
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path}: exists and is not a folder", "choose another output")
        journal = path / JOURNAL
        if path.exists() and any(path.iterdir()):
            if resume and not overwrite:
                written = _resumed(path, head)
            elif overwrite:
                clear(path)
            else:
                raise ConfigError(
                    f"{path}: the folder is not empty", "add --resume to go on, or --overwrite to replace it"
                )
        path.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(head), *(json.dumps(vars(shard)) for shard in written.values())]
        write_bytes(journal, ("\n".join(lines) + "\n").encode())
        return cls(path, shards, written)

    def pending(self) -> tuple[Shard, ...]:
        """Return the shards that are not on disk yet."""
        return tuple(shard for shard in self.shards if shard.file not in self.written)

    def add(self, shard: Written) -> None:
        """Record a finished shard in the journal."""
        journal = self.path / JOURNAL
        with naming_full_disk(journal), journal.open("a") as file:
            file.write(json.dumps(vars(shard)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.written[shard.file] = shard

    def finish(
        self,
        *,
        donor: Checkpoint | Path | None,
        files: Mapping[str, str | bytes] | None = None,
        config: Mapping[str, Any] | None = None,
        tokenizer: Checkpoint | Path | None = None,
    ) -> dict[str, str]:
        """Complete the folder; return the digests of the shards by file name.

        Args:
            donor: whose config.json and generation_config.json are copied; and the tokenizer, unless
                `tokenizer`.
            files: further files (card, recipe, lock), by name.
            config: entries that replace the donor's in config.json.
            tokenizer: whose tokenizer files and chat template are copied.

        Raises:
            CheckpointError: a shard is missing.
        """
        missing = self.pending()
        if missing:
            raise CheckpointError(f"{self.path / missing[0].file}: is not written yet", "resume the job")
        total = sum(shard.nbytes for shard in self.shards)
        if len(self.shards) > 1:
            weight_map = {tensor.name: shard.file for shard in self.shards for tensor in shard.tensors}
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            write_bytes(self.path / INDEX, (json.dumps(index, indent=2) + "\n").encode())
        for name, content in (files or {}).items():
            write_bytes(self.path / name, content.encode() if isinstance(content, str) else content)
        if donor is not None:
            self._copy(_folder(tokenizer if tokenizer is not None else donor), TOKENIZER_FILES)
            self._copy(_folder(donor), ("generation_config.json",))
            source = _folder(donor) / "config.json"
            if source.exists():
                merged = {
                    **json.loads(source.read_text(encoding="utf-8")),
                    **self._dtype_entry(),
                    **(config or {}),
                }
                write_bytes(
                    self.path / "config.json",
                    (json.dumps(merged, indent=2, ensure_ascii=False) + "\n").encode(),
                )
        (self.path / JOURNAL).unlink(missing_ok=True)
        sync_folder(self.path)
        return {shard.file: self.written[shard.file].digest for shard in self.shards}

    def _copy(self, source: Path, names: Sequence[str]) -> None:
        for name in names:
            if (source / name).is_file():
                write_bytes(self.path / name, (source / name).read_bytes())

    def _dtype_entry(self) -> dict[str, str]:
        found = [t.dtype for shard in self.shards for t in shard.tensors if t.dtype in DTYPE_NAMES]
        if not found:
            return {}
        name = DTYPE_NAMES[max(sorted(set(found)), key=found.count)]
        return {"dtype": name, "torch_dtype": name}  # the second is what transformers before 5 reads


def plan_shards(tensors: Sequence[Planned], shard_bytes: int) -> tuple[Shard, ...]:
    """Divide tensors into files, in their order.

    Raises:
        ConfigError: no tensors, a name twice, or a dtype that safetensors does not have.
    """
    names = [tensor.name for tensor in tensors]
    if not names or len(set(names)) < len(names):
        raise ConfigError("a checkpoint needs tensors, each with its own name", f"got {len(names)}")
    groups: list[list[Planned]] = [[]]
    filled = 0
    for tensor in tensors:
        if tensor.dtype not in DTYPE_BYTES:
            raise ConfigError(
                f"tensor {tensor.name}: cannot be written as {tensor.dtype}", "choose F32, BF16 or F16"
            )
        if groups[-1] and filled + tensor.nbytes > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.nbytes
    if len(groups) == 1:
        return (Shard(SINGLE, tuple(groups[0])),)
    count = len(groups)
    return tuple(
        Shard(f"model-{i:05d}-of-{count:05d}.safetensors", tuple(g)) for i, g in enumerate(groups, 1)
    )


def write_shard(folder: Path, shard: Shard, produce: Produce) -> Written:
    """Write one shard: header, then every tensor's pieces in order; hashed on the way, flushed, renamed.

    Raises:
        CheckpointError: a tensor's pieces do not add up to its size.
        DiskFullError: no space left; nothing partial remains.
    """
    head = header_bytes(shard, _METADATA)
    with replacing(Path(folder) / shard.file) as temporary, hashed_file(temporary) as file:
        file.write(head)
        for tensor in shard.tensors:
            done = 0
            for piece in produce(tensor):
                if isinstance(piece, Fill):
                    file.fill(*piece)
                else:
                    file.write(np.ascontiguousarray(piece).data)
                done += piece.nbytes
            if done != tensor.nbytes:
                raise CheckpointError(
                    f"{shard.file}: tensor {tensor.name}: {done} bytes for {tensor.nbytes}", "report this"
                )
    return Written(shard.file, len(head) + shard.nbytes, file.digest)


def write_checkpoint(
    out: Path | str,
    tensors: Mapping[str, tuple[NDArray[Any], str]],
    *,
    config: Mapping[str, Any] | None = None,
    shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
    files: Mapping[str, str | bytes] | None = None,
) -> Checkpoint:
    """Write arrays in memory as a checkpoint: name → (float32 array, safetensors dtype).

    >>> write_checkpoint("tiny", {"w": (np.zeros((2, 3), np.float32), "BF16")})
    """
    from heredity.kernels.encode import encode

    plan = [Planned(name, dtype, tuple(array.shape)) for name, (array, dtype) in tensors.items()]
    writer = CheckpointWriter.open(
        out, plan, job="write_checkpoint", shard_bytes=shard_bytes, overwrite=overwrite
    )
    for shard in writer.pending():
        writer.add(
            write_shard(writer.path, shard, lambda planned: [encode(tensors[planned.name][0], planned.dtype)])
        )
    extra = {**(files or {})}
    if config is not None:
        extra["config.json"] = json.dumps(dict(config), indent=2) + "\n"
    writer.finish(donor=None, files=extra)
    return Checkpoint.open(writer.path)


def header_bytes(shard: Shard, metadata: Mapping[str, str]) -> bytes:
    """Return the length and the header of a safetensors file, padded to a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for tensor in shard.tensors:
        stop = offset + tensor.nbytes
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _plan_digest(shards: tuple[Shard, ...]) -> str:
    return hashlib.sha256(
        b"".join(shard.file.encode() + header_bytes(shard, _METADATA) for shard in shards)
    ).hexdigest()


def _resumed(path: Path, head: Mapping[str, str | int]) -> dict[str, Written]:
    journal = path / JOURNAL
    if not journal.exists() and all(
        f.name.startswith(".") and f.name.endswith(".tmp") for f in path.iterdir()
    ):
        for stale in path.iterdir():  # killed before its first line: nothing is here yet
            stale.unlink()
        return {}
    if not journal.exists():
        raise ConfigError(
            f"{path}: holds no unfinished job", "--overwrite replaces it, or choose another output"
        )
    lines = journal.read_text().splitlines(keepends=True)
    if not lines or not lines[0].endswith("\n") or json.loads(lines[0]) != head:
        raise ConfigError(
            f"{path}: was started by another job", "use the same recipe and inputs to resume, or --overwrite"
        )
    for stale in path.glob(".*.tmp"):
        stale.unlink()
    found = [
        Written(**json.loads(line)) for line in lines[1:] if line.endswith("\n")
    ]  # the last may be cut short
    return {
        w.file: w for w in found if (path / w.file).is_file() and (path / w.file).stat().st_size == w.nbytes
    }


def clear(path: Path) -> None:
    """Remove what is part of a checkpoint, its configuration first, so that no mixture can ever be loaded."""
    stale = sorted(
        {file for pattern in _OWN for file in path.glob(pattern)},
        key=lambda f: (f.name not in ("config.json", "adapter_config.json"), f.name),
    )
    for file in [*stale, *path.glob(".*.tmp"), path / JOURNAL]:
        if file.is_symlink() or file.is_file():
            file.unlink()
    sync_folder(path)


def _folder(source: Checkpoint | Path) -> Path:
    path = source.path if isinstance(source, Checkpoint) else Path(source)
    return path if path.is_dir() else path.parent
