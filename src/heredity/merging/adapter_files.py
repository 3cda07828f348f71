"""The files of a merged adapter as PEFT reads them: factors cut to a rank by a small SVD, and their configuration.

Source: PEFT's file layout, adapter_config.json and adapter_model.safetensors.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from heredity.adapter import PREFIX, Spelling
from heredity.checkpoint import ADAPTER_CONFIG, Checkpoint
from heredity.jsonfile import read_table
from heredity.kernels.decode import decode
from heredity.kernels.encode import encode
from heredity.lowrank import LowRank, distance, norm, truncated
from heredity.merging.adapter_changes import Change, Sketch, limited, relative
from heredity.merging.engine import Facts, Merge
from heredity.merging.plan import output_dtype
from heredity.writer import Planned

_LAYER_ENDS = ("lora_A.weight", "lora_B.weight")
_EMBEDDING_ENDS = ("lora_embedding_A", "lora_embedding_B")

Progress = Callable[[str, int], None]


class AdapterFiles:
    """The weights of an adapter in the making, and its configuration.

    Attributes:
        planned: the tensors of the file, in order.
    """

    def __init__(
        self, merge: Merge, drawn: Sketch, found: Sequence[Change], dtype: str | None, rank: int | None
    ) -> None:
        self._merge, self._drawn, self._dtype = merge, drawn, dtype
        self._changes = {change.name: change for change in found}
        self._deltas = {change.name: change.delta for change in found if change.delta is not None}
        self._cut = {name: _cut(delta, rank) for name, delta in self._deltas.items()}
        self._homes: dict[str, str] = {}  # tensor of the file → tensor of the base
        self._whole_facts: dict[str, Facts] = {}
        self.planned: list[Planned] = []
        for change in found:
            for planned in self._tensors(change):
                self._homes[planned.name] = change.name
                self.planned.append(planned)

    def produce(self, progress: Progress, planned: Planned) -> Iterator[ndarray]:
        """Yield the bytes of one tensor of the file."""
        change = self._changes[self._homes[planned.name]]
        progress(change.name, planned.nbytes)
        if change.delta is not None:
            a, b = self._sides(change)
            yield encode(
                b if planned.name.endswith((_LAYER_ENDS[1], _EMBEDDING_ENDS[1])) else a, planned.dtype
            )
            return
        self._whole_facts[change.name] = {}
        for block in self._merge.blocks(change.name, self._whole_facts[change.name]):
            yield encode(block, planned.dtype)

    def facts(self) -> dict[str, Facts]:
        """Return what was done to every tensor, once all are written."""
        found = dict(self._whole_facts)
        for name, cut in self._cut.items():
            delta = self._deltas[name]
            length = norm(delta)
            written = _rounded(cut, self._dtype or "F32")
            error = 0.0 if written is delta else relative(distance(written, delta), length)
            found[name] = {
                "coefficients": list(self._changes[name].coefficients), "rank": cut.rank, "norm": length,
                "relative_error": error,
            }  # fmt: skip
        return dict(sorted(found.items()))

    def config(self) -> dict[str, Any]:
        """Return adapter_config.json: α is the rank everywhere, so that the factors stand as they are."""
        first = self._drawn.adapters[0]
        given = read_table(first.path / ADAPTER_CONFIG)
        ranks = {_module(self._changes[name].spelling): cut.rank for name, cut in self._cut.items()}
        usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
        unusual = _patterns({module: rank for module, rank in ranks.items() if rank != usual}, ranks)
        whole = [change.spelling.name for change in self._changes.values() if change.delta is None]
        biases = [name for name in whole if _is_bias(name, whole)]
        modules = sorted({name.rpartition(".")[0] for name in whole if name not in biases})
        return {
            "peft_type": "LORA", "task_type": given.get("task_type"),
            "base_model_name_or_path": _base_reference(given, self._drawn.base),
            "revision": given.get("revision"), "inference_mode": True, "r": usual, "lora_alpha": usual,
            "lora_dropout": 0.0, "bias": "all" if biases else "none", "use_rslora": False, "use_dora": False,
            "init_lora_weights": True, "fan_in_fan_out": self._drawn.turned,
            "target_modules": _targets(list(ranks), self._drawn), "modules_to_save": modules or None,
            "rank_pattern": unusual, "alpha_pattern": unusual,
        }  # fmt: skip

    def _tensors(self, change: Change) -> Iterator[Planned]:
        name, kind = change.spelling
        module = _module(change.spelling)
        if change.delta is None:
            info = self._drawn.base.info(change.name)
            layer, _, last = name.rpartition(".")
            wrapped = last == "bias" and f"{layer}.weight" in {
                self._changes[own].spelling.name for own in self._cut
            }
            own = f"{layer}.base_layer.bias" if wrapped else name
            yield Planned(PREFIX + own, output_dtype(info, self._dtype), info.shape)
            return
        ends = _EMBEDDING_ENDS if kind == "embedding" else _LAYER_ENDS
        for end, side in zip(ends, self._sides(change), strict=True):
            yield Planned(f"{PREFIX}{module}.{end}", self._dtype or "F32", (side.shape[0], side.shape[1]))

    def _sides(self, change: Change) -> tuple[ndarray, ndarray]:
        """Return A and B as the file stores them."""
        cut = self._cut[change.name]
        if self._drawn.turned or change.spelling.kind == "embedding":
            return cut.left.T, cut.right.T
        return cut.right, cut.left


def _cut(delta: LowRank, asked: int | None) -> LowRank:
    rank = limited(delta.rank, delta.shape, asked)
    return delta if rank == delta.rank else truncated(delta, rank)


def _rounded(cut: LowRank, dtype: str) -> LowRank:
    """Return the factors as the file has them."""
    if dtype == "F32":
        return cut
    sides = []
    for side in (cut.left, cut.right):
        values = np.empty(side.size, np.float32)
        decode(encode(np.ascontiguousarray(side), dtype), dtype, values)
        sides.append(values.reshape(side.shape))
    return LowRank(sides[0], sides[1], cut.scale)


def _module(spelling: Spelling) -> str:
    return spelling.name.removesuffix(".weight")


def _is_bias(name: str, whole: Sequence[str]) -> bool:
    """Say whether a tensor is a bias that was trained beside factors, and not part of a module that is whole."""
    layer, _, last = name.rpartition(".")
    return last == "bias" and f"{layer}.weight" not in whole


def _targets(modules: Sequence[str], drawn: Sketch) -> list[str]:
    """Return the last parts of the modules' names where that says it all, else their whole names."""
    stored = [name.removesuffix(".weight") for name in drawn.base.tensors if name.endswith(".weight")]
    found: set[str] = set()
    for module in modules:
        last = module.rpartition(".")[2]
        alike = sum(name.rpartition(".")[2] == last for name in stored)
        found.add(last if alike == sum(m.rpartition(".")[2] == last for m in modules) else module)
    return sorted(found)


def _patterns(unusual: Mapping[str, int], ranks: Mapping[str, int]) -> dict[str, int]:
    """Return rank by pattern for PEFT: one for all modules of a last name, where they agree."""
    found: dict[str, int] = {}
    for module, rank in unusual.items():
        last, tail = module.rpartition(".")[2], module.partition(".")[2]
        agree = {r for m, r in ranks.items() if m.rpartition(".")[2] == last} == {rank}
        alone = (
            bool(tail) and sum(m.endswith(f".{tail}") for m in ranks) == 1
        )  # older PEFT wants a dot before
        found[last if agree else re.escape(tail if alone else module)] = rank
    return dict(sorted(found.items()))


def _base_reference(given: Mapping[str, Any], base: Checkpoint) -> str:
    """Return what the first adapter calls its base, if that is the base that it was opened on."""
    named = given.get("base_model_name_or_path")
    if isinstance(named, str) and named:
        local = Path(named)
        in_cache = f"models--{named.replace('/', '--')}" in base.path.absolute().parts
        if in_cache or (local.exists() and local.resolve() == base.path.resolve()):
            return named
    return str(base.path.absolute())
