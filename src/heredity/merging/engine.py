"""A merge, prepared from headers, carried out tensor by tensor: Gram matrix, coefficients, one fused pass."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from heredity.anatomy import layer_of
from heredity.checkpoint import Checkpoint
from heredity.errors import ConfigError
from heredity.gram import TensorGram
from heredity.kernels.encode import encode
from heredity.merging._blocks import InputBlocks
from heredity.merging._discovery import name_of
from heredity.merging._gram import from_origin, measure, unmeasured
from heredity.merging._lines import line_blocks
from heredity.merging._method import DataMethod, ElementMethod, Method, SpanMethod
from heredity.merging._open import location, open_input
from heredity.merging._sum import Term, sum_blocks, summing
from heredity.merging.data import data_blocks
from heredity.merging.lazy import MergedCheckpoint
from heredity.merging.observe import effective_t, observed, of_gram, sampled, task_vectors
from heredity.merging.plan import Plan, plan_models
from heredity.point import Point
from heredity.writer import Fill

_LOG = logging.getLogger("heredity.merging")

Facts = dict[str, Any]


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
        models: folders, Hub ids, adapters ("base+adapter" or a LoRA folder that names its base) or open
            checkpoints, in the order that per-model values have.
        base: what the models were tuned from, where the method works on differences from it. Methods that go
            from one model to another (slerp, nearswap, arcee_fusion) start from the first one by default.
        seed: of random masks.

    Raises:
        ConfigError: the method needs a base or takes another number of models.
        MismatchError: the models do not have the same tensors.
        CheckpointError: a model cannot be opened.
    """
    opened = [open_input(model) for model in models]
    start = None if base is None else open_input(base)
    given = {"base": str(_reference(base, start))} if start is not None else {}
    named = [_reference(model, checkpoint) for model, checkpoint in zip(models, opened, strict=True)]
    paths = {name: location(c) for name, c in zip(named, opened, strict=True)}
    paths |= {given["base"]: location(start)} if start is not None else {}
    plan = plan_models(method, opened, start)
    recipe = {"method": name_of(type(method)), **given, "models": named, **_fields(method)}
    return Merge(plan, Target(donor=start or opened[0], models=paths), recipe={"merge": recipe}, seed=seed)


class Target(NamedTuple):
    """What the result has besides its weights.

    Attributes:
        donor: whose configuration, generation settings and tokenizer it gets.
        dtype: "F32", "BF16" or "F16" of the weights; None keeps each tensor's.
        config: entries of config.json that differ from the donor's.
        tokenizer: whose tokenizer it gets, where that is not the donor's.
        models: the recipe's names of models → where they were found.
        adapter: whether it is an adapter of the base that all inputs share, instead of a whole model.
        rank: the adapter's largest rank; None keeps the sum of its inputs' ranks, which loses nothing.
    """

    donor: Checkpoint
    dtype: str | None = None
    config: Mapping[str, Any] = {}
    tokenizer: Path | None = None
    models: Mapping[str, str] = {}
    adapter: bool = False
    rank: int | None = None


class Merge:
    """A merge that is prepared and not yet carried out.

    Attributes:
        plan: what will happen to every tensor.
        target: configuration, tokenizer and format of the result.
        recipe: plain values from which the merge can be made again.
        seed: of random masks.
    """

    def __init__(
        self,
        plan: Plan,
        target: Target,
        *,
        recipe: Mapping[str, Any],
        seed: int = 0,
        grams: dict[str, TensorGram] | None = None,
    ) -> None:
        self.plan = plan
        self.target = target
        self.recipe = recipe
        self.seed = seed
        self._grams: dict[str, TensorGram] = {} if grams is None else grams

    def using(self, method: Method) -> "Merge":
        """Return the same merge by another method (say another t), sharing the Gram matrices.

        >>> prepared = merge(Slerp(t=0.5), ["lua", "stories"])
        >>> points = [prepared.using(Slerp(t=t / 10)).point() for t in range(11)]
        """
        groups = tuple(g._replace(methods=dict.fromkeys(g.methods, method)) for g in self.plan.groups)
        before = {
            field
            for g in self.plan.groups
            for m in g.methods.values()
            for field in m.__struct_encode_fields__
        }
        kept = {k: v for k, v in self.recipe["merge"].items() if k not in {"method", "slices", *before}}
        if "models" in kept:  # a model's own parameters would go before the method's
            kept["models"] = [m if isinstance(m, str) else m["model"] for m in kept["models"]]
        recipe = {"merge": {"method": name_of(type(method)), **kept, **_fields(method)}}
        plan = self.plan._replace(groups=groups)
        return Merge(plan, self.target, recipe=recipe, seed=self.seed, grams=self._grams)

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """All stored inputs by name, in order; by path where folders share a name."""
        by_path: dict[str, Checkpoint] = {}
        for group in self.plan.groups:
            for given in group.inputs:
                inner = given.merge.checkpoints.values() if isinstance(given, MergedCheckpoint) else [given]
                for checkpoint in inner:
                    by_path.setdefault(location(checkpoint), checkpoint)
        taken = [c.name for c in by_path.values()]
        return {c.name if taken.count(c.name) == 1 else path: c for path, c in by_path.items()}

    def gram(self, name: str) -> TensorGram:
        """Return the Gram matrix of a tensor's inputs, computed once; the first input is the reference."""
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
        if method.inputs.base == "optional" and not group.base:
            return method.coefficients(from_origin(gram))[1:]
        return method.coefficients(gram)

    def is_lerp(self, name: str) -> bool:
        """Say whether a spherical method is lerp in a tensor, as its sides are nearly collinear."""
        method = self.plan.home(name).methods[name]
        falls_back: Callable[[TensorGram], bool] | None = getattr(method, "falls_back", None)
        return falls_back is not None and falls_back(self.gram(name))

    def terms(self, name: str) -> list[Term]:
        """Return one tensor as a sum over stored tensors; inner merges in the span are unfolded.

        Raises:
            ConfigError: the method's result is not in the span of its inputs, or not by whole tensors.
        """
        found: dict[tuple[str, str], Term] = {}
        for given, coefficient in zip(self.plan.home(name).inputs, self.coefficients_of(name), strict=True):
            inner = [(given, name, 1.0)]
            if isinstance(given, MergedCheckpoint) and given.merge.is_span(given.own_name(name)):
                inner = given.merge.terms(given.own_name(name))
            for checkpoint, own, factor in inner:
                key = (location(checkpoint), checkpoint.info(own).name)
                before = found[key][2] if key in found else 0.0
                found[key] = (checkpoint, own, before + float(coefficient) * factor)
        return list(found.values())

    def is_span(self, name: str) -> bool:
        """Say whether a tensor of the result is a sum of its inputs' tensors."""
        method = self.plan.home(name).methods[name]
        return isinstance(method, SpanMethod) and method.axis == "tensor"

    def point(self) -> Point:
        """Return the result as a point over `checkpoints`: coefficients for every tensor.

        Raises:
            ConfigError: the method's result is not in the span of its inputs, or layers change their places.
        """
        stored = list(self.checkpoints.values())
        place = {location(checkpoint): i for i, checkpoint in enumerate(stored)}
        self.coefficients()  # says once how many tensors fall back to lerp
        rows = {}
        for name in self.plan.weights:
            rows[name] = np.zeros(len(stored))
            for checkpoint, own, coefficient in self.terms(name):
                at = place.get(location(checkpoint))
                if at is None or layer_of(checkpoint.info(own).name) != layer_of(name):
                    raise ConfigError(f"{name} is not a sum of tensors of that name", "write it with save()")
                rows[name][at] += coefficient
        return Point(tuple(self.checkpoints), rows)

    def blocks(self, name: str, facts: Facts | None = None) -> Iterator[Float32[ndarray, "n"]]:
        """Yield the merged elements of a tensor, block after block.

        A block is overwritten by the next one. `facts` receives what was found out about the tensor.
        """
        if facts is None:
            yield from self._blocks(name, {})
        else:
            yield from observed(self._blocks(name, facts), self.plan.home(name), name, facts)

    def pieces(self, name: str, dtype: str, facts: Facts) -> Iterator[ndarray | Fill]:
        """Yield the bytes of a merged tensor in a safetensors dtype; each piece is to be used before the next.

        Args:
            name: of the tensor.
            dtype: "F32", "BF16" or "F16".
            facts: receives what was found out about the tensor.
        """
        group = self.plan.home(name)
        method = group.methods[name]
        if dtype != "BF16" or not isinstance(method, SpanMethod) or method.axis != "tensor":
            for block in self.blocks(name, facts):
                yield encode(block, dtype)
            return
        terms = self.terms(name)
        facts |= self._span_facts(name)
        with summing(terms) as into:
            yield Fill(2 * group.inputs[0].info(name).size, 2, into)
        sampled(group, name, facts)

    def _blocks(self, name: str, facts: Facts) -> Iterator[Float32[ndarray, "n"]]:
        group = self.plan.home(name)
        method = group.methods[name]
        if self.is_span(name):
            terms = self.terms(name)
            facts |= self._span_facts(name)
            yield from sum_blocks(terms, group.inputs[0].info(name).size)
        elif isinstance(method, SpanMethod):
            origin = method.inputs.base == "optional" and not group.base
            yield from line_blocks(group.inputs, name, method, origin=origin)
        elif isinstance(method, ElementMethod):
            blocks = InputBlocks(group.inputs, name, self.seed, rows=method.rows)
            survey = method.survey(blocks)
            for block in blocks:
                yield method.combine(survey, block)
            facts |= method.facts(survey)
        elif isinstance(method, DataMethod):
            yield from data_blocks(group, method, name, facts)

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
        jobs: int = 1,
        ray: str | None = None,
        progress: Callable[[str, int], None] | None = None,
        as_adapter: bool = False,
        rank: int | None = None,
    ) -> Path:
        """Write the result as a checkpoint that `from_pretrained` loads; return its folder.

        Args:
            out: folder; must be empty or new without `resume` or `overwrite`.
            donor: whose configuration and tokenizer the result gets; default: the base, else the first model.
            dtype: "F32", "BF16" or "F16" for all weights; by default each tensor keeps the first input's.
            shard_bytes: size of output shards.
            resume: go on with an interrupted merge of the same recipe and inputs.
            overwrite: replace a checkpoint in the folder.
            hash_inputs: record the digests of inputs even if they must be read once more for it.
            jobs: shards that are written at the same time.
            ray: address of a Ray cluster that writes the shards, "local" for one of its own.
            progress: called with a tensor's name and a number of bytes that were merged.
            as_adapter: write a PEFT LoRA folder: where all inputs are adapters of one base, and that base.
            rank: cut the adapter's factors to this rank, with the error stated; default: exact.

        Raises:
            CheckpointError: an input is damaged, or changed while it was merged.
            ConfigError: the folder is not empty, or the result is no adapter of the inputs' base.
            DiskFullError: there is not enough room.
        """
        from heredity.merging.output import save

        target = self.target._replace(dtype=dtype or self.target.dtype)
        if as_adapter or target.adapter:
            from heredity.merging.adapter_output import save_adapter

            target = target._replace(adapter=True, rank=rank or target.rank)
            return save_adapter(
                self, Path(out), target, resume=resume, overwrite=overwrite, hash_inputs=hash_inputs,
                progress=progress or (lambda name, nbytes: None),
            )  # fmt: skip
        if donor is not None:  # its tokenizer too, unless the rows were joined for another
            target = target._replace(donor=open_input(donor))
        return save(
            self, Path(out), target, shard_bytes=shard_bytes, resume=resume, overwrite=overwrite,
            hash_inputs=hash_inputs, jobs=jobs, ray=ray, progress=progress or (lambda name, nbytes: None),
        )  # fmt: skip

    def load(self, model: Any) -> None:
        """Pour the result into a live torch model, without writing a file (needs the extra `models`).

        Raises:
            ConfigError: the method's result is not in the span of its inputs.
        """
        pour = import_module("heredity.models.pour").pour  # above us, and torch: only when asked for
        pour(self.point(), self.checkpoints, model)

    def _span_facts(self, name: str) -> Facts:
        coefficients = self.coefficients_of(name)
        facts: Facts = {"coefficients": [float(c) for c in coefficients]}
        group = self.plan.home(name)
        deltas = task_vectors(group.methods[name], group)
        if name in self._grams:
            facts |= of_gram(self._grams[name], deltas=deltas)
        if (t := effective_t(facts["coefficients"], deltas=deltas)) is not None:
            facts["t"] = t
        if self.is_lerp(name):
            facts["lerp"] = True
        return facts


def _reference(given: str | Path | Checkpoint | None, opened: Checkpoint) -> str:
    return str(opened.path) if isinstance(given, Checkpoint) else str(given)


def _fields(method: Method) -> dict[str, Any]:
    """Return a method's fields as the recipe has them, without those at their defaults."""
    defaults = {f.encode_name: f.default for f in msgspec.structs.fields(method)}
    plain: dict[str, Any] = msgspec.to_builtins(method)
    return {key: value for key, value in plain.items() if value != defaults[key]}
