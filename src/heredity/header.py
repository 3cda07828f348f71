"""Read a safetensors header and believe none of it before it agrees with the size of the file.

Source: the safetensors format: u64 length N, N bytes of JSON, then the data that the offsets tile without
holes.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heredity.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip
_AGAIN = "the file is damaged or not safetensors: download or write it again"


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        name: as the header has it.
        dtype: safetensors name: "BF16", "F16", "F32", "F8_E4M3", "F8_E5M2", "I64" …
        shape: may be empty (a scalar).
        file: the safetensors file that holds it.
        start: absolute offset of its first byte in the file.
        stop: absolute offset after its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.nbytes // self.item_bytes

    @property
    def nbytes(self) -> int:
        """Number of bytes on disk."""
        return self.stop - self.start

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return DTYPE_BYTES[self.dtype]


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Return the tensors of a file by name (sorted) and its metadata.

    Raises:
        CheckpointError: the file is missing, truncated, or its header does not describe its bytes.
    """
    try:
        with path.open("rb") as file:
            file_bytes = file.seek(0, 2)
            file.seek(0)
            if file_bytes < 8:
                raise CheckpointError(
                    f"{path}: {file_bytes} bytes are too few for a safetensors file", _AGAIN
                )
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(file_bytes - 8, MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{path}: the header claims {length} bytes, the file has {file_bytes - 8} for it",
                    _AGAIN,
                )
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror})", "check the path and its permissions"
        ) from None
    entries = _parse(path, text)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ is not a table of strings", _AGAIN)
    data = 8 + length
    tensors = {name: _tensor(path, name, entries[name], data, file_bytes - data) for name in sorted(entries)}
    _check_tiling(path, tensors, data, file_bytes)
    return tensors, metadata


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not JSON ({str(error)[:120]})", _AGAIN) from None
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: the header is not a table", _AGAIN)
    return entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} appears twice")
    return table


def _tensor(path: Path, name: str, entry: Any, data: int, data_bytes: int) -> TensorInfo:
    def wrong(what: str) -> CheckpointError:
        return CheckpointError(f"{path}: tensor {name}: {what}", _AGAIN)

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong("the header entry must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise wrong(f"dtype {dtype!r} is not known")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise wrong(f"shape {shape!r} is not a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise wrong(f"data_offsets {offsets!r} are not two integers")
    start, stop = offsets
    if not 0 <= start <= stop:
        raise wrong(f"data_offsets {start}…{stop} are not a range")
    if stop > data_bytes:
        raise wrong(f"ends at byte {stop} of the data, the file has {data_bytes}: it is truncated")
    elements = 1
    for n in shape:
        elements *= n
    if elements * DTYPE_BYTES[dtype] != stop - start:
        raise wrong(
            f"{dtype} {shape} needs {elements * DTYPE_BYTES[dtype]} bytes, the offsets give {stop - start}"
        )
    return TensorInfo(name, dtype, tuple(shape), path, data + start, data + stop)


def _check_tiling(path: Path, tensors: dict[str, TensorInfo], data: int, file_bytes: int) -> None:
    end, before = data, "the header"
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.stop)):
        if tensor.start != end:
            what = "overlap" if tensor.start < end else "leave a hole"
            raise CheckpointError(
                f"{path}: {before} and tensor {tensor.name} {what} at byte {tensor.start}", _AGAIN
            )
        end, before = tensor.stop, f"tensor {tensor.name}"
    if end != file_bytes:
        raise CheckpointError(
            f"{path}: {file_bytes - end} bytes after the last tensor belong to none", _AGAIN
        )
