"""Reading the two files of an SAE's folder, untrusted: checked names, shapes and numbers, errors of one line."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from heredity.errors import MismatchError, StoreError

T = TypeVar("T")


def read_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file as a struct.

    Raises:
        StoreError: it is missing, no JSON, or an entry is missing or of another type.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", "point at an SAE's folder") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreError(f"{path}: cannot be read as an SAE's record ({error})", "fetch it again") from None


def read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read tensors of exactly these names and shapes, as float32.

    Raises:
        StoreError: the file is damaged, a tensor is missing, unknown, not of floating point, or not finite.
        MismatchError: a tensor has another shape.
    """
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            for name in sorted(names.symmetric_difference(shapes)):
                what = "no tensor" if name in shapes else "unknown tensor"
                raise StoreError(
                    f"{path}: {what} {name!r}", "this kind of SAE is not known here, or cfg.json is another's"
                )
            for name, want in shapes.items():
                have = tuple(file.get_slice(name).get_shape())
                if have != want:
                    raise MismatchError(
                        f"{path}: {name} is {have}, cfg.json says {want}", "wrong pair of files"
                    )
            tensors = {name: file.get_tensor(name) for name in shapes}
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path}: cannot be read ({error})", "the file is damaged: fetch it again") from None
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise StoreError(f"{path}: {name} is {value.dtype}", "weights are floating-point numbers")
        if not bool(torch.isfinite(value.float()).all()):
            raise StoreError(f"{path}: {name} is not finite", "the SAE is broken: train or fetch it again")
    return {name: value.to(torch.float32) for name, value in tensors.items()}
