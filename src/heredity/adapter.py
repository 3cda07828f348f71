"""A PEFT LoRA folder, as the model it makes of its base: the base plus s·B·A, never formed as a whole.

Source: Hu et al. 2021 (LoRA), Δ = (α / r) B A; Kalajdzievski 2023 (rsLoRA), Δ = (α / √r) B A; PEFT's file
layout.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from heredity.checkpoint import ADAPTER_CONFIG, Checkpoint
from heredity.errors import CheckpointError, MismatchError
from heredity.header import TensorInfo, read_header
from heredity.jsonfile import read_table
from heredity.lowrank import LowRank
from heredity.readers import AdaptedReader, Reader, opened

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every name in the file
_FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(?:\.default)?(?:\.weight)?$")
_UNKNOWN = "merge the adapter into its base with the tool that made it, and use the result"


class Spelling(NamedTuple):
    """How an adapter's file speaks of a tensor of the base.

    Attributes:
        name: as the live model calls it, which the base's files may do with another prefix.
        kind: factors of a layer, factors of an embedding, or the tensor itself.
    """

    name: str
    kind: Literal["layer", "embedding", "saved"]


class AdaptedCheckpoint(Checkpoint):
    """A base with an adapter on it; its tensors have the base's names and shapes.

    `block`, `read` and `reading` give the adapted weights; `low_rank` gives the factors.

    Attributes:
        base: the checkpoint that the adapter is added to.
        deltas: tensor name → factors of its difference.
        adapter_file: the adapter's weights.
    """

    def __init__(
        self,
        path: Path,
        base: Checkpoint,
        deltas: Mapping[str, LowRank],
        saved: Mapping[str, TensorInfo],
        name: str | None = None,
    ) -> None:
        super().__init__(path, {**base.tensors, **saved}, base.config, name=name, metadata=base.metadata)
        self.base, self.deltas, self.saved = base, dict(deltas), dict(saved)
        self.adapter_file = path / WEIGHTS

    def __reduce__(self) -> tuple[Any, ...]:
        return AdaptedCheckpoint, (self.path, self.base, self.deltas, self.saved, self.name)

    @property
    def files(self) -> tuple[Path, ...]:
        """The base's files and the adapter's."""
        return tuple(sorted({*super().files, self.adapter_file}))

    def low_rank(self, name: str) -> LowRank | None:
        """Return the factors of a tensor's difference from the base, or None."""
        return self.deltas.get(name)

    @contextmanager
    def reading(self, name: str) -> Iterator[Reader]:
        """Open one adapted tensor for block reads."""
        with super().reading(name) as reader:
            delta = self.deltas.get(name)
            yield reader if delta is None else AdaptedReader(reader, delta)

    def renamed(self, names: Mapping[str, str]) -> "AdaptedCheckpoint":
        """Return a view with the tensors of `names` (new name → own name) and no others."""
        deltas = {new: self.deltas[own] for new, own in names.items() if own in self.deltas}
        view = AdaptedCheckpoint(
            self.path, self.base.renamed({}), deltas, {n: self.info(o) for n, o in names.items()}, self.name
        )
        view.config = self.config
        return view


def open_adapter(
    path: Path | str, *, base: Checkpoint | None = None, offline: bool | None = None, name: str | None = None
) -> AdaptedCheckpoint:
    """Open a LoRA folder on its base. The factors are read (they are small); the base's weights are not.

    Args:
        path: folder with adapter_config.json and adapter_model.safetensors.
        base: what it is added to; default: the one its configuration names.
        offline: never use the network.
        name: of the checkpoint; default: the folder's.

    Raises:
        CheckpointError: damaged, not LoRA, or of a kind (DoRA, pickled) that is not read.
        MismatchError: a factor does not fit the base's tensor.
    """
    path = Path(path)
    config = _config(path)
    if base is None:
        ref = config.get("base_model_name_or_path")
        if not isinstance(ref, str) or not ref:
            raise CheckpointError(
                f"{path}: {ADAPTER_CONFIG} names no base", "give the adapter a parent in the family file"
            )
        base = Checkpoint.open(ref, revision=config.get("revision"), offline=offline)
    if not (path / WEIGHTS).exists():
        raise CheckpointError(
            f"{path}: has no {WEIGHTS}", "pickled adapters are not opened: save it as safetensors"
        )
    infos, _ = read_header(path / WEIGHTS)
    pairs: dict[str, dict[str, TensorInfo]] = {}
    saved: dict[str, TensorInfo] = {}
    for key, info in infos.items():
        bare = key.removeprefix(PREFIX)
        found = _FACTOR.match(bare)
        if found:
            pairs.setdefault(found["module"], {})[("embedding" if found["kind"] else "") + found["side"]] = (
                info
            )
        elif "lora_" in bare or "magnitude" in bare:
            raise CheckpointError(
                f"{path / WEIGHTS}: tensor {key} is of an adapter kind that is not read", _UNKNOWN
            )
        else:
            target = _base_name(_unwrapped(bare), base)
            _check_saved(path, key, info, target, base)
            saved[target] = info
    deltas = {}
    for module, sides in sorted(pairs.items()):
        target = _base_name(module + ".weight", base)
        deltas[target] = _factors(path, module, sides, config, base, target)
    both = sorted(set(deltas) & set(saved))
    if both:
        raise CheckpointError(f"{path / WEIGHTS}: {both[0]} is saved whole and as factors", _UNKNOWN)
    if not deltas and not saved:
        raise CheckpointError(f"{path / WEIGHTS}: holds no LoRA factors", "the adapter is empty")
    return AdaptedCheckpoint(path, base, deltas, saved, name or path.name)


def spellings(adapter: AdaptedCheckpoint) -> dict[str, Spelling]:
    """Return for each tensor of the base that an adapter changes how the adapter's file speaks of it."""
    found: dict[str, Spelling] = {}
    for key in read_header(adapter.adapter_file)[0]:
        bare = key.removeprefix(PREFIX)
        factor = _FACTOR.match(bare)
        if factor is None:
            spelling = Spelling(_unwrapped(bare), "saved")
        else:
            spelling = Spelling(factor["module"] + ".weight", "embedding" if factor["kind"] else "layer")
        found[_base_name(spelling.name, adapter.base)] = spelling
    return found


def _config(path: Path) -> dict[str, Any]:
    config = read_table(path / ADAPTER_CONFIG)
    if config.get("peft_type", "LORA") != "LORA":
        kind = config.get("peft_type")
        raise CheckpointError(f"{path / ADAPTER_CONFIG}: adapter type {kind!r}, not LORA", _UNKNOWN)
    if config.get("use_dora"):
        raise CheckpointError(
            f"{path / ADAPTER_CONFIG}: DoRA rescales whole columns, which is not B·A", _UNKNOWN
        )
    if config.get("lora_bias"):
        raise CheckpointError(f"{path / ADAPTER_CONFIG}: lora_bias is not read", _UNKNOWN)
    return config


def _factors(
    path: Path,
    module: str,
    sides: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    base: Checkpoint,
    target: str,
) -> LowRank:
    where = f"{path / WEIGHTS}: {module}"
    kinds = sorted(sides)
    if kinds not in (["A", "B"], ["embeddingA", "embeddingB"]):
        raise CheckpointError(f"{where}: has only factor {', '.join(kinds)}", "save the adapter again")
    a, b = (_read(sides[kind]) for kind in kinds)
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise CheckpointError(
            f"{where}: factors A {list(a.shape)} and B {list(b.shape)} do not multiply", _UNKNOWN
        )
    rank = a.shape[0]
    stated = _pattern(config.get("rank_pattern"), module, config.get("r", rank))
    if stated != rank:
        raise CheckpointError(
            f"{where}: rank {rank} in the file, {stated} in {ADAPTER_CONFIG}", "save the adapter again"
        )
    alpha = _pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", rank))
    scale = float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    # Embeddings store [tokens, d] = (B A)ᵀ, as Conv1D layers store [in, out]
    transposed = kinds[0] == "embeddingA" or bool(config.get("fan_in_fan_out"))
    left, right = (a.T, b.T) if transposed else (b, a)
    delta = LowRank(np.ascontiguousarray(left), np.ascontiguousarray(right), scale)
    shape = base.info(target).shape
    if delta.shape != shape:
        raise MismatchError(
            f"{where}: adapts shape {[*delta.shape]}, {target} is {[*shape]} in {base.info(target).file}",
            "this adapter belongs to another base, or fan_in_fan_out is wrong",
        )
    return delta


def _read(info: TensorInfo) -> np.ndarray[Any, np.dtype[np.float32]]:
    with opened(info) as reader:
        return reader.read(0, info.size).reshape(info.shape)


def _pattern(patterns: Any, module: str, default: Any) -> Any:
    """Return the value of the first pattern that the end of the module's name matches, as PEFT does."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _unwrapped(name: str) -> str:
    """Return the name that a saved tensor has without PEFT's wrappers."""
    return re.sub(r"\.(modules_to_save(\.default)?|base_layer)\.", ".", name)


def _base_name(name: str, base: Checkpoint) -> str:
    """Return the base's name of a tensor, whose files may lack or have the prefix of the whole model."""
    if name in base.tensors:
        return name
    bare = name.split(".", 1)[-1]
    candidates = [
        c
        for c in (bare, *(f"{p}.{name}" for p in ("model", "transformer", "bert", "roberta")))
        if c in base.tensors
    ]
    if len(candidates) != 1:
        raise MismatchError(
            f"the adapter changes {name}, which {base.path} does not have", "is this its base?"
        )
    return candidates[0]


def _check_saved(path: Path, key: str, info: TensorInfo, target: str, base: Checkpoint) -> None:
    other = base.info(target)
    if info.shape != other.shape:
        raise MismatchError(
            f"{path / WEIGHTS}: tensor {key} is {[*info.shape]}, {[*other.shape]} in {other.file}",
            "this adapter belongs to another base, or its vocabulary was resized",
        )
