"""A merge, prepared from headers and carried out tensor by tensor: Gram matrix, coefficients, one fused pass."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from heredity.checkpoint import Checkpoint
from heredity.errors import ConfigError
from heredity.gram import TensorGram
from heredity.merging import output
from heredity.merging._blocks import BLOCK, InputBlocks
from heredity.merging._discovery import name_of
from heredity.merging._gram import from_origin, measure, unmeasured
from heredity.merging._lines import line_blocks
from heredity.merging._method import ElementMethod, Method, SpanMethod
from heredity.merging.plan import Group, Plan, plan_models
from heredity.point import Point, combine

_LOG = logging.getLogger("heredity.merging")


def merge(
    method: Method,
    models: Sequence[str | Path | Checkpoint],
    base: str | Path | Checkpoint | None = None,
    *,
    seed: int = 0,
) -> "Merge":
    """Prepare a merge; nothing but headers is read until its result is asked for.

    >>> merge(Slerp(t=0.58), ["lua", "stories"]).save("luastories")

    Args:
        method: a value such as `Slerp(t=0.58)`.
        models: folders, Hub ids or open checkpoints, in the order that per-model values have.
        base: what the models were tuned from, where the method works on differences from it. Methods that go
            from one model to another (slerp, nearswap, arcee_fusion) start from the first one by default.
        seed: of random masks.

    Raises:
        ConfigError: the method needs a base or takes another number of models.
        MismatchError: the models do not have the same tensors.
        CheckpointError: a model cannot be opened.
    """
    opened = [Checkpoint.open(model) for model in models]
    start = None if base is None else Checkpoint.open(base)
    paths = {"base": str(start.path)} if start else {}
    fields = {k: v for k, v in msgspec.to_builtins(method).items() if v is not None}
    recipe = {
        "merge": {"method": name_of(type(method)), **paths, "models": [str(m.path) for m in opened], **fields}
    }
    return Merge(plan_models(method, opened, start), recipe=recipe, seed=seed)


class Merge:
    """A merge that is prepared and not yet carried out.

    Attributes:
        plan: what will happen to every tensor.
        recipe: plain values from which the merge can be made again.
        seed: of random masks.
        donor: whose configuration and tokenizer the result gets, unless `save` is told otherwise.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        recipe: Mapping[str, Any],
        seed: int = 0,
        donor: Checkpoint | None = None,
        grams: dict[str, TensorGram] | None = None,
    ) -> None:
        self.plan = plan
        self.recipe = recipe
        self.seed = seed
        self.donor = plan.groups[0].inputs[0] if donor is None else donor
        self._grams: dict[str, TensorGram] = {} if grams is None else grams

    def using(self, method: Method) -> "Merge":
        """Return the same merge by another method (say another t), sharing the Gram matrices already computed.

        >>> prepared = merge(Slerp(t=0.5), ["lua", "stories"])
        >>> points = [prepared.using(Slerp(t=t / 10)).point() for t in range(11)]
        """
        groups = tuple(g._replace(methods=dict.fromkeys(g.methods, method)) for g in self.plan.groups)
        kept = {k: v for k, v in self.recipe["merge"].items() if k in ("base", "models", "donor")}
        fields = {k: v for k, v in msgspec.to_builtins(method).items() if v is not None}
        recipe = {"merge": {"method": name_of(type(method)), **kept, **fields}}
        plan = self.plan._replace(groups=groups)
        return Merge(plan, recipe=recipe, seed=self.seed, donor=self.donor, grams=self._grams)

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """All inputs by name, in order; by path where folders share a name."""
        by_path: dict[Path, Checkpoint] = {}
        for group in self.plan.groups:
            for checkpoint in group.inputs:
                by_path.setdefault(checkpoint.path, checkpoint)
        taken = [c.name for c in by_path.values()]
        return {c.name if taken.count(c.name) == 1 else str(c.path): c for c in by_path.values()}

    def gram(self, name: str) -> TensorGram:
        """Return the Gram matrix of a tensor's inputs (pass 1), computed once; the first input is the reference."""
        if name not in self._grams:
            self._grams[name] = measure(self.plan.home(name).inputs, name)
        return self._grams[name]

    def coefficients(self) -> dict[str, Float64[ndarray, "inputs"]]:
        """Return for every tensor what each input of its group is multiplied by, base first.

        Raises:
            ConfigError: a method's result is not in the span of its inputs, or not by whole tensors.
        """
        found = {name: self.coefficients_of(name) for name in self.plan.weights}
        fallen = sum(self.is_lerp(name) for name in found)
        if fallen:
            _LOG.info(
                "slerp is lerp (the sides are nearly collinear) in %d of %d tensors", fallen, len(found)
            )
        return found

    def coefficients_of(self, name: str) -> Float64[ndarray, "inputs"]:
        """Return what each input is multiplied by in one tensor, base first.

        Raises:
            ConfigError: the method's result is not in the span of its inputs, or not by whole tensors.
        """
        group = self.plan.home(name)
        method = group.methods[name]
        if not isinstance(method, SpanMethod) or method.axis != "tensor":
            raise ConfigError(
                f"{name_of(type(method))} treats the elements of {name} differently: it has no coefficients",
                "write it with save(); points are for methods in the span of their inputs",
            )
        gram = self.gram(name) if method.needs_gram else unmeasured(group.inputs, name)
        return span_coefficients(method, gram, group.base)

    def is_lerp(self, name: str) -> bool:
        """Say whether a spherical method falls back to lerp in a tensor, because its sides are nearly collinear."""
        method = self.plan.home(name).methods[name]
        falls_back: Callable[[TensorGram], bool] | None = getattr(method, "falls_back", None)
        return falls_back is not None and falls_back(self.gram(name))

    def point(self) -> Point:
        """Return the result as a point over `checkpoints`: coefficients for every tensor.

        Raises:
            ConfigError: the method's result is not in the span of its inputs, or tensors change their names.
        """
        place = {checkpoint.path: i for i, checkpoint in enumerate(self.checkpoints.values())}
        rows = {}
        for name, coefficients in self.coefficients().items():
            rows[name] = np.zeros(len(place))
            for checkpoint, coefficient in zip(self.plan.home(name).inputs, coefficients, strict=True):
                if checkpoint.info(name).name != name:
                    raise ConfigError(
                        f"{name} comes from another layer of {checkpoint.path}: no point",
                        "write it with save()",
                    )
                rows[name][place[checkpoint.path]] += coefficient
        return Point(tuple(self.checkpoints), rows)

    def blocks(self, name: str, facts: dict[str, Any] | None = None) -> Iterator[Float32[ndarray, "n"]]:
        """Yield the merged elements of a tensor, block after block; `facts` receives what was found out about it."""
        facts = {} if facts is None else facts
        group = self.plan.home(name)
        method = group.methods[name]
        if isinstance(method, SpanMethod) and method.axis == "tensor":
            yield from self._span_blocks(group, name, facts)
        elif isinstance(method, SpanMethod):
            origin = method.inputs.base == "optional" and not group.base
            yield from line_blocks(group.inputs, name, method, origin=origin)
        elif isinstance(method, ElementMethod):
            yield from _element_blocks(group, method, name, self.seed)
        else:
            raise ConfigError(f"{name_of(type(method))} cannot be carried out block by block", "")

    def save(
        self,
        out: str | Path,
        *,
        donor: str | Path | Checkpoint | None = None,
        dtype: str | None = None,
        shard_bytes: int = 5_000_000_000,
        resume: bool = False,
        overwrite: bool = False,
        hash_inputs: bool = False,
        progress: Callable[[str, int], None] | None = None,
    ) -> Path:
        """Write the result as a checkpoint that `from_pretrained` loads, in constant memory; return its folder.

        Args:
            out: folder; must be empty or new without `resume` or `overwrite`.
            donor: whose configuration and tokenizer the result gets; by default the base, else the first model.
            dtype: "F32", "BF16" or "F16" for all weights; by default each tensor keeps the first input's.
            shard_bytes: size of output shards.
            resume: go on with an interrupted merge of the same recipe and inputs.
            overwrite: replace a checkpoint in the folder.
            hash_inputs: record the sha256 of inputs even if they must be read once more for it.
            progress: called with a tensor's name and a number of bytes that were merged.

        Raises:
            CheckpointError: an input is damaged, or changed while it was merged.
            ConfigError: the folder is not empty.
            DiskFullError: there is not enough room.
        """
        out = Path(out)
        output.save(
            out, self.plan, self.blocks, recipe=self.recipe, seed=self.seed,
            donor=self.donor if donor is None else Checkpoint.open(donor), dtype=dtype, config={}, tokenizer=None,
            shard_bytes=shard_bytes, resume=resume, overwrite=overwrite, hash_inputs=hash_inputs,
            progress=progress or (lambda name, nbytes: None),
        )  # fmt: skip
        return out

    def load(self, model: Any) -> None:
        """Pour the result into a live torch model, without writing a file (needs the extra `models`).

        Raises:
            ConfigError: the method's result is not in the span of its inputs.
        """
        pour = import_module("heredity.models.pour").pour  # above us, and torch: only when asked for
        pour(self.point(), self.checkpoints, model)

    def _span_blocks(self, group: Group, name: str, facts: dict[str, Any]) -> Iterator[Float32[ndarray, "n"]]:
        coefficients = self.coefficients_of(name)
        facts["coefficients"] = [float(c) for c in coefficients]
        if self.is_lerp(name):
            facts["lerp"] = True
        terms = [
            (checkpoint, float(c)) for checkpoint, c in zip(group.inputs, coefficients, strict=True) if c != 0
        ]
        size = group.inputs[0].info(name).size
        out = np.empty(min(BLOCK, size), np.float32)
        for start in range(0, size, BLOCK):
            stop = min(size, start + BLOCK)
            yield combine(terms, name, start, stop, out[: stop - start])


def span_coefficients(method: SpanMethod, gram: TensorGram, base: bool) -> Float64[ndarray, "inputs"]:
    """Return a method's coefficients; where it may have a base and has none, the origin takes its place."""
    if method.inputs.base == "optional" and not base:
        return method.coefficients(from_origin(gram))[1:]
    return method.coefficients(gram)


def _element_blocks(
    group: Group, method: ElementMethod, name: str, seed: int
) -> Iterator[Float32[ndarray, "n"]]:
    blocks = InputBlocks(group.inputs, name, seed, rows=method.rows)
    survey = method.survey(blocks)
    for block in blocks:
        yield method.combine(survey, block)
