"""A checkpoint on disk or on the Hub: headers only, then float32 blocks of one tensor at a time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heredity.errors import CheckpointError
from heredity.header import TensorInfo, read_header
from heredity.jsonfile import read_table
from heredity.lowrank import LowRank
from heredity.readers import Reader, RowsReader, opened

__all__ = ["Checkpoint", "LowRank", "Reader", "TensorInfo"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
JOURNAL = ".heredity-journal.jsonl"  # of what is being written: without a config.json it is not finished
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_OTHER_PICKLES = ("model.pt", "consolidated.00.pth")
_pickles_allowed: ContextVar[bool] = ContextVar("pickles_allowed", default=False)


@contextmanager
def allowing_pickles() -> Iterator[None]:
    """Let `Checkpoint.open` convert pickled weights, once, into safetensors in the cache; needs torch.

    >>> with allowing_pickles():
    ...     checkpoint = Checkpoint.open("folder-with-pytorch_model.bin")
    """
    token = _pickles_allowed.set(True)
    try:
        yield
    finally:
        _pickles_allowed.reset(token)


class Checkpoint:
    """Tensors by name, read lazily.

    Attributes:
        path: the folder (or the one file).
        name: the folder's name, for messages and tables.
        config: config.json, or empty.
        tensors: name → `TensorInfo`, sorted by name.
        metadata: `__metadata__` of the first file.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, TensorInfo],
        config: Mapping[str, Any],
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.name = name or path.name
        self.config = dict(config)
        self.metadata = dict(metadata or {})
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(dict(sorted(tensors.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self.path, dict(self.tensors), self.config, self.name, self.metadata)

    @classmethod
    def open(
        cls,
        ref: "str | Path | Checkpoint",
        *,
        revision: str | None = None,
        offline: bool | None = None,
        base: "Checkpoint | None" = None,
    ) -> "Checkpoint":
        """Open a folder, a .safetensors file, a Hub id ("org/name@revision") or `archive:FILE#FOLDER`.

        Reads headers only. The size of every tensor is checked against its file. Pickled weights are refused,
        except in `allowing_pickles`; then the tensors are read from the cache, all else from the folder.

        Args:
            ref: what to open; a checkpoint is returned as it is.
            revision: branch, tag or commit of a Hub id.
            offline: never use the network; default: the environment's HF_HUB_OFFLINE.
            base: what a LoRA adapter is added to; default: the base that its adapter_config.json names.

        Raises:
            CheckpointError: missing, truncated, damaged, or only pickled weights.
            ExtraMissingError: pickled weights are allowed, and there is no torch.
        """
        if isinstance(ref, Checkpoint):
            return ref
        path = Path(ref)
        if not path.exists() and str(ref).startswith("archive:"):
            from heredity.corpora.packaged import unpacked

            path = unpacked(str(ref))
        elif not path.exists():
            from heredity.hub import resolve

            path = resolve(
                str(ref),
                revision=revision,
                offline=offline,
                pickles=PICKLES if _pickles_allowed.get() else (),
            )
        if path.is_file():
            tensors, metadata = read_header(path)
            return cls(path, tensors, _config(path.parent), name=path.stem, metadata=metadata)
        if (path / ADAPTER_CONFIG).exists() and not (path / SINGLE).exists() and not (path / INDEX).exists():
            from heredity.adapter import open_adapter

            return open_adapter(path, base=base, offline=offline, name=_folder_name(path, ref))
        tensors, metadata = _folder_tensors(path)
        return cls(path, tensors, _config(path), name=_folder_name(path, ref), metadata=metadata)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold tensors, in order of name."""
        return tuple(sorted({tensor.file for tensor in self.tensors.values()}))

    def info(self, name: str) -> TensorInfo:
        """Return where a tensor lies.

        Raises:
            CheckpointError: there is no such tensor.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.path}: has no tensor {name}", "heredity inspect lists what it has")
        return self.tensors[name]

    def origin(self, name: str) -> TensorInfo:
        """Return where the stored part of a tensor lies; models with one origin differ by `low_rank` only."""
        return self.info(name)

    def low_rank(self, name: str) -> LowRank | None:
        """Return what is added to the stored tensor, or None if it stands as it is stored."""
        return None

    @contextmanager
    def reading(self, name: str) -> Iterator[Reader]:
        """Open one tensor for block reads; its file is closed at the end of the `with`.

        Raises:
            CheckpointError: no such tensor, or its file cannot be opened.
        """
        with opened(self.info(name)) as reader:
            yield reader

    @contextmanager
    def reading_rows(self, name: str, rows: NDArray[np.int64]) -> Iterator[Reader]:
        """Open some rows of a tensor, in the order given, as if they were the tensor."""
        width = int(np.prod(self.info(name).shape[1:], dtype=np.int64))
        with self.reading(name) as reader:
            yield RowsReader(reader, rows, width)

    def block(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return the flat elements [start, stop) of a tensor as float32.

        >>> Checkpoint.open("base").block("lm_head.weight", 0, 4096).shape
        (4096,)
        """
        with self.reading(name) as reader:
            return reader.read(start, stop)

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a whole tensor as float32 in its shape."""
        info = self.info(name)
        return self.block(name, 0, info.size).reshape(info.shape)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """Return the bytes of a tensor as a read-only memory map, uint8[nbytes]."""
        info = self.info(name)
        if info.nbytes == 0:
            return np.empty(0, np.uint8)
        return np.memmap(info.file, np.uint8, "r", info.start, (info.nbytes,))

    def renamed(self, names: Mapping[str, str]) -> "Checkpoint":
        """Return a view with the tensors of `names` (new name → own name) and no others."""
        tensors = {new: self.info(own) for new, own in names.items()}
        return Checkpoint(self.path, tensors, self.config, name=self.name, metadata=self.metadata)


def _folder_tensors(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    if (path / JOURNAL).exists() and not (path / "config.json").exists():
        raise CheckpointError(
            f"{path}: was not written to its end", "run the command that writes it again, with --resume"
        )
    if (path / SINGLE).exists():  # as transformers: one whole file goes before an index
        return read_header(path / SINGLE)
    if (path / INDEX).exists():
        return _sharded(path)
    singles = sorted(path.glob("*.safetensors"))
    if len(singles) == 1:
        return read_header(singles[0])
    pickled = [name for name in (*PICKLES, *_OTHER_PICKLES) if (path / name).exists()]
    if pickled and pickled[0] in PICKLES and _pickles_allowed.get():
        convert = import_module("heredity.models.convert").convert  # above us, and torch: only when allowed
        return _folder_tensors(convert(path / pickled[0]))
    if pickled:
        raise CheckpointError(
            f"{path}: only pickled weights ({pickled[0]}), which can run code when they are opened",
            "--allow-pickle-weights reads the tensors alone, and keeps them as safetensors in the cache"
            if pickled[0] in PICKLES
            else "convert them to safetensors first: of pickles, only pytorch_model.bin is ever read",
        )
    what = f"{len(singles)} safetensors files and no {INDEX}" if singles else "no safetensors weights"
    raise CheckpointError(f"{path}: {what}", f"a checkpoint has {SINGLE}, or shards with {INDEX}")


def read_index(index: Path) -> list[tuple[str, str]]:
    """Return (tensor, file) of all tensors of an index, in order of name; files stay inside the folder.

    Raises:
        CheckpointError: it cannot be read, or points elsewhere.
    """
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        entries: list[tuple[str, str]] = sorted(weight_map.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index}: cannot be read as an index ({error})", "download or write it again"
        ) from None
    for name, file in entries:
        if not isinstance(file, str) or not _stays_inside(file):
            raise CheckpointError(
                f"{index}: tensor {name} points outside the folder: {file!r}", "do not use this checkpoint"
            )
    return entries


def _sharded(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    entries = read_index(path / INDEX)
    shards: dict[str, dict[str, TensorInfo]] = {}
    metadata: dict[str, str] = {}
    for file in sorted({file for _, file in entries}):
        if not (path / file).exists():
            raise CheckpointError(
                f"{path / file}: the shard is missing", "download the whole checkpoint again"
            )
        shards[file], found = read_header(path / file)
        metadata = metadata or found
    for name, file in entries:
        if name not in shards[file]:
            raise CheckpointError(
                f"{path / file}: lacks tensor {name} that {INDEX} places there", "download it again"
            )
    return {name: shards[file][name] for name, file in entries}, metadata


def _stays_inside(file: str) -> bool:
    parts: Sequence[str] = PurePosixPath(file).parts
    return (
        bool(parts)
        and not file.startswith("/")
        and ".." not in parts
        and "\\" not in file
        and "\0" not in file
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return read_table(path) if path.exists() else {}


def _folder_name(path: Path, ref: str | Path) -> str:
    if not Path(ref).exists():
        return str(ref).split("@")[0].rsplit("/", 1)[-1]
    return path.resolve().name


def _remake(
    cls: type[Checkpoint], path: Path, tensors: Any, config: Any, name: str, metadata: Any
) -> Checkpoint:
    return cls(path, tensors, config, name=name, metadata=metadata)
