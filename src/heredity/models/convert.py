"""Turn pickled weights into safetensors, once, in the cache: tensors alone are taken from a pickle, no code runs.

torch's restricted loader (`weights_only=True`) refuses whatever is not a tensor or plain data. What it reads is
written under the cache folder by the hash of the files, whole or not at all, and used from there.
"""

import hashlib
import json
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heredity.anatomy import is_head
from heredity.atomic import replacing_folder, write_text
from heredity.checkpoint import INDEX, SINGLE, read_index
from heredity.digests import cache_folder, sha256_of, state
from heredity.errors import CheckpointError, ExtraMissingError, naming_full_disk
from heredity.jsonfile import read_table
from heredity.writer import Planned, Shard, header_bytes

try:
    import torch
except ModuleNotFoundError as error:
    raise ExtraMissingError("opening pickled weights", "models") from error

FORMAT = 1  # of what is written: raise it when the same pickle gives other files
_DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32",
    torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32",
    torch.float64: "F64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
_DAMAGED = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError)


def convert(file: Path) -> Path:
    """Return a folder in the cache with the weights of a pickle as safetensors, made if it is not there.

    Args:
        file: pytorch_model.bin, or pytorch_model.bin.index.json beside its shards.

    Raises:
        CheckpointError: a file is missing or damaged, asks for more than tensors, or changed meanwhile.
        DiskFullError: the cache has no room for it.
    """
    shards: Mapping[str, tuple[str, ...] | None] = (
        _shards(file) if file.suffix == ".json" else {file.name: None}
    )
    files = [file, *(file.parent / name for name in shards)]
    for path in files:
        if not path.is_file():
            raise CheckpointError(f"{path}: the shard is missing", "download the whole checkpoint again")
    tied = _says_tied(file.parent)
    before = [state(path) for path in files]
    facts = [FORMAT, tied, *([path.name, sha256_of(path)] for path in files)]
    target = cache_folder() / "pickles" / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    if target.is_dir():
        return target
    with replacing_folder(target) as folder:
        weight_map: dict[str, str] = {}
        for number, (name, wanted) in enumerate(shards.items(), start=1):
            tensors = _tensors(file.parent / name, wanted, tied)
            out = SINGLE if wanted is None else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            _write(folder / out, tensors)
            weight_map |= dict.fromkeys(tensors, out)
        if file.suffix == ".json":
            write_text(folder / INDEX, json.dumps({"metadata": {}, "weight_map": weight_map}))
        for path, known in zip(files, before, strict=True):
            if not state(path).same_as(known):
                raise CheckpointError(f"{path}: changed while it was converted", "run again")
    return target


def _shards(index: Path) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, file in read_index(index):
        found[file] = (*found.get(file, ()), name)
    return dict(sorted(found.items()))


def _tensors(file: Path, wanted: tuple[str, ...] | None, tied: bool) -> dict[str, torch.Tensor]:
    """Return the tensors of one pickle by name, without a head that is the embedding itself."""
    content = _loaded(file)
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{file}: holds no table of tensors", "it is not the weights of a model")
    found: dict[str, torch.Tensor] = {}
    for name in sorted(map(str, content)) if wanted is None else wanted:
        if name not in content:
            raise CheckpointError(
                f"{file}: lacks tensor {name} that the index places there", "download it again"
            )
        found[name] = _checked(file, name, content[name])
    views = {_view(tensor) for name, tensor in found.items() if not is_head(name)}
    return {name: t for name, t in found.items() if not (tied and is_head(name) and _view(t) in views)}


def _loaded(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old protocols: what cannot be read is an error below
            try:
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap" not in str(error):
                    raise
                return torch.load(
                    file, map_location="cpu", weights_only=True
                )  # an old file is no zip archive
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file}: refused: the pickle asks for more than tensors, or is damaged",
            "it may run code when it is opened: ask for safetensors",
        ) from None
    except _DAMAGED as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{file}: cannot be read as weights ({first_line[:120]})", "download it again"
        ) from None


def _checked(file: Path, name: str, value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise CheckpointError(
            f"{file}: {name} is a {type(value).__name__}, not a tensor", "it is not the weights of a model"
        )
    if value.layout is not torch.strided or value.device.type != "cpu" or value.dtype not in _DTYPES:
        raise CheckpointError(
            f"{file}: tensor {name} is {value.layout}, {value.dtype} on {value.device.type}",
            "safetensors holds dense numbers only: save it so",
        )
    if value.nbytes > value.untyped_storage().nbytes():
        raise CheckpointError(
            f"{file}: tensor {name} of shape {list(value.shape)} is larger than what the file stores of it",
            "do not use this checkpoint",
        )
    return value.detach()


def _view(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    planned = [Planned(name, _DTYPES[t.dtype], tuple(t.shape)) for name, t in tensors.items()]
    with naming_full_disk(path), path.open("wb") as file:
        file.write(header_bytes(Shard(path.name, tuple(planned)), {"format": "pt"}))
        for data in _bytes(tensors.values()):
            file.write(data.data)


def _bytes(tensors: Iterable[torch.Tensor]) -> Iterable[NDArray[np.uint8]]:
    for tensor in tensors:
        yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def _says_tied(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and read_table(config).get("tie_word_embeddings") is True
