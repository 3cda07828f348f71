"""What a merge will do, from headers only: for every tensor of the result, which method on which tensors.

A `Group` is a set of inputs seen under the names of the result; most merges have one, a stack of slices has
one for each slice.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from heredity.anatomy import kind_of
from heredity.checkpoint import Checkpoint, TensorInfo
from heredity.errors import ConfigError, MismatchError
from heredity.kernels.decode import CODES
from heredity.kernels.encode import ENCODINGS
from heredity.merging._discovery import name_of
from heredity.merging._method import Method

TIED_HEADS = {"lm_head.weight": ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight")}


class Group(NamedTuple):
    """Inputs under the names of the result.

    Attributes:
        inputs: base first where `base` is true, then the models in order.
        base: whether the first input is the base of the method.
        methods: tensor of the result → its method with this tensor's parameters.
    """

    inputs: tuple[Checkpoint, ...]
    base: bool
    methods: Mapping[str, Method]


class Plan(NamedTuple):
    """All groups of a merge and what was decided on the way.

    Attributes:
        groups: their tensors make up the result, none twice.
        copied: tensor → group, of tensors without weights (integers, masks), copied from its first input.
        notes: decisions that a reader should know, in order.
    """

    groups: tuple[Group, ...]
    copied: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every tensor of the result by name, as the first input of its group has it; sorted."""
        found = {name: group.inputs[0].info(name) for group in self.groups for name in group.methods}
        found |= {name: self.groups[index].inputs[0].info(name) for name, index in self.copied.items()}
        return dict(sorted(found.items()))

    @property
    def weights(self) -> list[str]:
        """Names of the tensors that are merged, not copied; sorted."""
        return sorted(name for group in self.groups for name in group.methods)

    def home(self, name: str) -> Group:
        """Return the group that a tensor of the result belongs to."""
        return next(group for group in self.groups if name in group.methods)


def plan_models(method: Method, models: Sequence[Checkpoint], base: Checkpoint | None) -> Plan:
    """Plan one method over whole checkpoints.

    Raises:
        ConfigError: the method needs a base or takes another number of models.
        MismatchError: a tensor is missing or has another shape.
    """
    ordered, based = order_inputs(type(method), list(models), base)
    notes: list[str] = []
    inputs = aligned(ordered, notes)
    weights = [name for name, info in inputs[0].tensors.items() if info.dtype in CODES]
    copied = [name for name in inputs[0].tensors if name not in weights]
    return Plan(
        (Group(inputs, based, dict.fromkeys(weights, method)),), dict.fromkeys(copied, 0), tuple(notes)
    )


def order_inputs(
    kind: type[Method], models: list[Checkpoint], base: Checkpoint | None
) -> tuple[list[Checkpoint], bool]:
    """Return the inputs with the base first, and whether there is one, as the method asks for it.

    Raises:
        ConfigError: the method needs a base, has none, or takes another number of models.
    """
    wants, name = kind.inputs, name_of(kind)
    others = models if base is None else [m for m in models if m.path != base.path]
    if wants.base == "first" and base is None and models:
        base, others = models[0], models[1:]
    if wants.base == "required" and base is None:
        raise ConfigError(f"{name} works on differences from a base, and none is named", "name it: base = …")
    if wants.base == "ignored":
        if base is not None and len(others) == len(models):
            raise ConfigError(f"{name} has no use for a base", "list it among the models, or leave it out")
        others, base = models, None
    check_count(kind, len(others), based=base is not None)
    return ([base, *others] if base is not None else others), base is not None


def check_count(kind: type[Method], count: int, *, based: bool) -> None:
    """Check that a method takes this number of models, not counting the base.

    Raises:
        ConfigError: it takes more or fewer.
    """
    least, most = kind.inputs.least, kind.inputs.most
    if count < least or (most is not None and count > most):
        range_ = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        besides = " besides the base" if based else ""
        raise ConfigError(
            f"{name_of(kind)} takes {range_} models{besides}, got {count}", "heredity methods has the numbers"
        )


def aligned(inputs: Sequence[Checkpoint], notes: list[str], *, join: bool = False) -> tuple[Checkpoint, ...]:
    """Return views of the inputs with the first one's tensors.

    A head that an input lacks because it is tied to the embedding is read from the embedding. With `join`
    embeddings may have different numbers of rows.

    Raises:
        MismatchError: a tensor is missing, superfluous or has another shape.
    """
    first = inputs[0]
    return (first, *(_like(first, other, notes, join) for other in inputs[1:]))


def _like(first: Checkpoint, other: Checkpoint, notes: list[str], join: bool) -> Checkpoint:
    names: dict[str, str] = {}
    for name, info in first.tensors.items():
        own = name if name in other.tensors else _tied_source(name, other)
        if own is None:
            raise MismatchError(
                f"{other.path}: has no tensor {name}, which {first.path} has",
                "these models do not have one architecture; a stack of slices can join different depths",
            )
        if own != name:
            notes.append(f"{other.name}: {name} is tied, read from {own}")
        shape = other.info(own).shape
        if shape != info.shape and not (join and shape[1:] == info.shape[1:] and holds_tokens(name)):
            raise MismatchError(
                f"tensor {name}: {list(info.shape)} in {info.file}, {list(shape)} in {other.info(own).file}",
                'for different vocabularies name the tokenizer to merge into: tokenizer = "union"; '
                "otherwise these models do not have one architecture",
            )
        names[name] = own
    for extra in other.tensors:
        if extra in names:
            continue
        if extra in TIED_HEADS and other.config.get("tie_word_embeddings"):
            notes.append(f"{other.name}: {extra} is tied and left out")
            continue
        raise MismatchError(
            f"{other.path}: has tensor {extra}, which {first.path} does not have",
            "these models do not have one architecture",
        )
    return (
        other
        if all(new == own for new, own in names.items()) and len(names) == len(other.tensors)
        else other.renamed(names)
    )


def holds_tokens(name: str) -> bool:
    """Say whether the rows of a tensor belong to tokens: input embeddings, output heads and their biases."""
    if kind_of(name) == "embedding":
        return re.search(r"position|token_type|wpe", name) is None
    return (
        re.search(r"(^|\.)(lm_head|embed_out|cls\.predictions(\.decoder)?)\.(weight|bias)$", name) is not None
    )


def _tied_source(name: str, checkpoint: Checkpoint) -> str | None:
    return next((own for own in TIED_HEADS.get(name, ()) if own in checkpoint.tensors), None)


def output_dtype(info: TensorInfo, asked: str | None) -> str:
    """Return the format a tensor is written in: as asked, else its own, else one that can be written."""
    if info.dtype not in CODES:
        return info.dtype
    if asked is not None:
        return asked
    if info.dtype in ENCODINGS:
        return info.dtype
    return "F32" if info.dtype == "F64" else "BF16"
