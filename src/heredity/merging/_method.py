"""What a merge method is: a frozen value that says how one tensor of the result follows from the inputs.

Three abstract kinds, and a file for each method, found by its name:
span        coefficients from one tensor's Gram matrix; the result is `sum_i c_i w_i`
element     a statistics pass over the tensor's blocks, then a kernel on each block
data        statistics of text (input Grams, Fisher information) decide
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, get_type_hints

import numpy as np
from jaxtyping import Float, Float32, Float64
from msgspec import Struct
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.gram import TensorGram

PerModel: TypeAlias = float | tuple[float, ...]
"""One number for all models, or one for each, in the order of the recipe (without the base)."""

FilePerModel: TypeAlias = tuple[str, ...]
"""One file for each model, in the order of the recipe; relative to it."""


class Inputs(NamedTuple):
    """What a method takes.

    Attributes:
        base: "ignored": the base is a model like any other; "first": the first model unless one is named;
            "required": must be named; "optional": if named, the method works on differences from it.
        least: fewest models besides the base.
        most: most models besides the base; None means any number.
    """

    base: Literal["ignored", "first", "required", "optional"]
    least: int = 1
    most: int | None = None


class Block(NamedTuple):
    """A run of one tensor's elements, of the base and of every model, as float32.

    Whole rows (of the last axis) where `rows` is asked for.
    """

    start: int
    base: Float32[ndarray, "n"]
    models: Float32[ndarray, "models n"]


class TensorBlocks(Protocol):
    """One tensor of all inputs, read block by block as often as a method likes, always from the start."""

    name: str
    shape: tuple[int, ...]
    size: int
    models: tuple[str, ...]
    seed: int

    def __iter__(self) -> Iterator[Block]: ...

    def sample(self) -> Block:
        """Return some elements of all inputs, from evenly spaced places."""


class Method(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way to merge: its fields are the recipe's keys, the schema, the table in the docs and the card."""

    inputs: ClassVar[Inputs]
    ignored: ClassVar[tuple[str, ...]] = ()  # keys of other tools' recipes that change nothing here

    def per_model(self, field: str, count: int) -> Float64[ndarray, "models"]:
        """Return a field's value for each of `count` models.

        Raises:
            ConfigError: the field holds another number of values.
        """
        values = np.atleast_1d(np.asarray(getattr(self, field), dtype=np.float64))
        if len(values) not in (1, count):
            raise ConfigError(
                f"{type(self).__name__}.{field} has {len(values)} values for {count} models",
                "give one value, or one for each model without the base",
            )
        return np.broadcast_to(values, (count,))


class SpanMethod(Method, frozen=True, kw_only=True):
    """A method whose result lies in the span of its inputs."""

    needs_gram: ClassVar[bool] = (
        True  # False: the coefficients follow from the fields alone, one pass is enough
    )

    @abstractmethod
    def coefficients(self, gram: TensorGram) -> Float64[ndarray, "inputs"]:
        """Return what each input is multiplied by, the base first where the method has one.

        Args:
            gram: inner products of one tensor of the inputs (or of one row of it, see `axis`).
        """

    @property
    def axis(self) -> Literal["tensor", "row", "column"]:
        """Whether coefficients are found for a tensor, for each row (last axis) or for each column."""
        return "tensor"


class ElementMethod(Method, frozen=True, kw_only=True):
    """A method that treats the elements of a tensor differently from each other."""

    rows: ClassVar[bool] = False  # whether blocks must hold whole rows

    @abstractmethod
    def survey(self, blocks: TensorBlocks) -> Any:
        """Read the tensor as often as needed and return what `combine` must know of the whole."""

    @abstractmethod
    def combine(self, survey: Any, block: Block) -> Float32[ndarray, "n"]:
        """Return the merged elements of a block; blocks of a tensor come in order, each once."""

    def facts(self, survey: Any) -> dict[str, Any]:
        """Return what is worth recording about a tensor once its blocks are combined."""
        found: dict[str, Any] = getattr(survey, "facts", None) or {}
        return found


class DataMethod(Method, frozen=True, kw_only=True):
    """A method that weighs the models by what they do on text."""

    statistics: FilePerModel = ()
    """Statistics files, one for each model, in order."""

    @abstractmethod
    def solve(
        self, name: str, weights: Sequence[Float[ndarray, "..."]], statistics: Sequence[Any], transposed: bool
    ) -> Float32[ndarray, "..."] | None:
        """Return the merged tensor, or None where the statistics say nothing about it (then it is averaged).

        Args:
            name: the tensor.
            weights: the tensor of every model, float32.
            statistics: an open statistics file for every model.
            transposed: whether the layer keeps its weight as [in, out] (GPT-2's Conv1D).
        """


def per_model_fields(kind: type[Method]) -> tuple[str, ...]:
    """Return the recipe's names of the fields that may differ between models."""
    return _fields_of(kind, PerModel) + file_fields(kind)


def file_fields(kind: type[Method]) -> tuple[str, ...]:
    """Return the recipe's names of the fields that name a file for each model."""
    return _fields_of(kind, FilePerModel)


def _fields_of(kind: type[Method], hint: Any) -> tuple[str, ...]:
    hints = get_type_hints(kind)
    pairs = zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
    return tuple(key for field, key in pairs if hints[field] == hint)
