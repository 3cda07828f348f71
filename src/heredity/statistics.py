"""Statistics of text that merging reads: input Gram matrices of linear layers, diagonal Fisher information.

A file is one safetensors file. `input_gram/TENSOR` is float32 or float64 [d_in, d_in], Σ x xᵀ over tokens
divided by their number; `fisher/TENSOR` has the tensor's shape, the mean squared gradient. The metadata
says what it was made of, and has three entries of use to a reader: `model` (the `fingerprint` of the
checkpoint), `shared` (JSON: tensor → the tensor whose input Gram it shares, stored once), `conv1d` (JSON: the
tensors kept as [in, out]).
"""

import json
import struct
from collections.abc import Callable, Mapping
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from heredity.atomic import writing
from heredity.checkpoint import Checkpoint
from heredity.errors import StoreError
from heredity.header import TensorInfo, read_header
from heredity.readers import opened

_GRAM, _FISHER = "input_gram/", "fisher/"
_FIRST_BYTES = 64  # of every tensor go into a fingerprint


class Statistics:
    """An open statistics file; tensors are read when they are asked for.

    Attributes:
        path: of the file.
        metadata: what it was made of.
    """

    def __init__(self, path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> None:
        self.path, self._tensors, self.metadata = path, tensors, metadata
        self._shared: dict[str, str] = json.loads(metadata.get("shared", "{}"))
        self._conv1d: list[str] = json.loads(metadata.get("conv1d", "[]"))
        self._names: Mapping[str, str] = {}

    @classmethod
    def open(cls, path: Path | str) -> "Statistics":
        """Open a file.

        Raises:
            StoreError: it holds no statistics.
            CheckpointError: missing, truncated or damaged.
        """
        tensors, metadata = read_header(Path(path))
        if not any(name.startswith((_GRAM, _FISHER)) for name in tensors):
            raise StoreError(
                f"{path}: holds no statistics", "heredity harvest --input-gram or --fisher makes them"
            )
        return cls(Path(path), tensors, metadata)

    @property
    def input_gram_tensors(self) -> list[str]:
        """Tensors of the layers whose inputs were recorded."""
        own = [name.removeprefix(_GRAM) for name in self._tensors if name.startswith(_GRAM)]
        return sorted([*own, *(name for name, leader in self._shared.items() if leader in own)])

    @property
    def fisher_tensors(self) -> list[str]:
        """Tensors whose Fisher information was recorded."""
        return sorted(name.removeprefix(_FISHER) for name in self._tensors if name.startswith(_FISHER))

    def renamed(self, names: Mapping[str, str]) -> "Statistics":
        """Return a view that knows tensors under other names too (new name → own name)."""
        view = Statistics(self.path, self._tensors, self.metadata)
        view._names = dict(names)
        return view

    def has_input_gram(self, tensor: str) -> bool:
        """Say whether the inputs of a layer were recorded."""
        return self._gram_of(tensor) in self._tensors

    def has_fisher(self, tensor: str) -> bool:
        """Say whether a tensor's Fisher information was recorded."""
        return self._fisher_of(tensor) in self._tensors

    def is_conv1d(self, tensor: str) -> bool:
        """Say whether a layer was seen to keep its weight as [in, out]."""
        return self._names.get(tensor, tensor) in self._conv1d

    def input_gram(self, tensor: str) -> Float64[ndarray, "d_in d_in"]:
        """Return the mean of x xᵀ over the tokens that came into a layer."""
        return self._read(self._gram_of(tensor)).astype(np.float64)

    def fisher(self, tensor: str) -> Float64[ndarray, "..."]:
        """Return the mean squared gradient of the log-likelihood, element by element."""
        return self._read(self._fisher_of(tensor)).astype(np.float64)

    def _gram_of(self, tensor: str) -> str:
        own = self._names.get(tensor, tensor)
        return _GRAM + self._shared.get(own, own)

    def _fisher_of(self, tensor: str) -> str:
        return _FISHER + self._names.get(tensor, tensor)

    def _read(self, name: str) -> Float32[ndarray, "..."]:
        if name not in self._tensors:
            raise StoreError(f"{self.path}: has no {name}", "harvest it again")
        info = self._tensors[name]
        with opened(info) as reader:
            values = reader.read(0, info.size)
        if not np.isfinite(values).all():
            raise StoreError(f"{self.path}: {name} holds NaN or infinity", "harvest it again")
        return values.reshape(info.shape)


class Later(NamedTuple):
    """An array that is made when it is written, so that not all of a file is in memory."""

    shape: tuple[int, ...]
    make: Callable[[], Float32[ndarray, "..."]]


def write_statistics(
    path: Path | str,
    *,
    input_grams: Mapping[str, Float32[ndarray, "d d"] | Later] | None = None,
    fisher: Mapping[str, Float32[ndarray, "..."] | Later] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a statistics file, whole or not at all.

    Args:
        path: of the file.
        input_grams: tensor → mean of x xᵀ over tokens.
        fisher: tensor → mean squared gradient.
        metadata: what it was made of.
    """
    path = Path(path)
    arrays = {_GRAM + name: value for name, value in (input_grams or {}).items()}
    arrays |= {_FISHER + name: value for name, value in (fisher or {}).items()}
    header: dict[str, object] = {"__metadata__": dict(metadata or {})}
    offset = 0
    for name, value in sorted(arrays.items()):
        size = 4 * prod(value.shape)
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with writing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, value in sorted(arrays.items()):
            made = value.make() if isinstance(value, Later) else value
            file.write(np.ascontiguousarray(made, np.float32).data)
    return path


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return a digest of every tensor's name, format, shape and first bytes.

    It tells a model from its siblings without reading them; the files of a checkpoint, not an adapter's sum.
    """
    whole = blake2b(digest_size=16)
    buffer = np.empty(_FIRST_BYTES, np.uint8)
    for name, info in checkpoint.tensors.items():
        whole.update(f"{name}\t{info.dtype}\t{info.shape}\n".encode())
        with opened(info) as reader:
            used = reader.read_raw(0, min(info.size, _FIRST_BYTES // info.item_bytes), buffer)
        whole.update(buffer[:used].tobytes())
    return whole.hexdigest()
