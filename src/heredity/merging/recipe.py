"""A merge as a file: TOML of our own, or mergekit's YAML, both read into one form.

Everything that a file says is used, noted as without effect, or refused by name.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from heredity.errors import ConfigError
from heredity.merging import expression
from heredity.merging._discovery import method as find_method
from heredity.merging._method import Method, per_model_fields
from heredity.merging.settings import Setting
from heredity.merging.tokenizer_files import template_text
from heredity.merging.tokens import Tokens, read_tokens

_RESERVED = (
    "method", "base", "models", "slices", "dtype", "tokenizer", "donor", "seed", "family", "members",
    "labels", "expression", "paths", "output", "rank", "chat_template",
)  # fmt: skip
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"} | {d: d for d in ("F32", "BF16", "F16")}


class Source(Struct, frozen=True, kw_only=True):
    """One model of a slice: its name, its layers [first, after the last), its own parameters."""

    model: str
    layers: tuple[int, int] | None = None
    parameters: dict[str, Setting] = {}


class Slice(Struct, frozen=True, kw_only=True):
    """A run of layers of the result and the models it is made of; all layers where a source names none."""

    sources: tuple[Source, ...]
    base: str | None = None
    parameters: dict[str, Setting] = {}


class Recipe(Struct, frozen=True, kw_only=True):
    """What to merge and how.

    Attributes:
        method: name of the method.
        slices: of the result, in order; one without layers for whole models.
        base: what task vectors start from.
        parameters: of the method, for all models and slices.
        paths: names used in the recipe → folder or Hub id; a name that is missing is itself a path.
        nested: names → merges whose results are inputs.
        dtype: "F32", "BF16" or "F16" of the result; None keeps each tensor's.
        tokenizer: whose tokens the rows of the result are; None keeps the models' own rows.
        chat_template: its text, or "auto" for the one that most models have; None keeps the tokenizer's.
        donor: whose configuration (and tokenizer) the result gets.
        output: "model", or "adapter" for a LoRA folder where all inputs are adapters of one base.
        rank: the largest rank of such an adapter; None loses nothing.
        seed: of random masks.
        root: folder that paths may be relative to.
        notes: what has no effect here.
    """

    method: str
    slices: tuple[Slice, ...]
    base: str | None = None
    parameters: dict[str, Setting] = {}
    paths: dict[str, str] = {}
    nested: "dict[str, Recipe]" = {}
    dtype: str | None = None
    tokenizer: Tokens | None = None
    chat_template: str | None = None
    donor: str | None = None
    output: Literal["model", "adapter"] = "model"
    rank: int | None = None
    seed: int = 0
    root: Path = Path()
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path | str, overrides: Mapping[str, Any] | None = None) -> "Recipe":
        """Read a recipe: .toml, or mergekit's .yml / .yaml.

        Args:
            path: the file.
            overrides: keys of [merge] (or of mergekit's parameters) to set, as `--set t=0.58` does.

        Raises:
            ConfigError: missing, not TOML or YAML, or something in it is unknown or cannot be used.
        """
        path = Path(path)
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: cannot be read ({error})", "give a recipe, .toml or mergekit's .yml"
            ) from None
        if path.suffix in (".yml", ".yaml"):
            from heredity.merging.mergekit import parse

            return parse(content, path, overrides or {})
        try:
            values = tomllib.loads(content)
        except ValueError as error:
            raise ConfigError(f"{path}: not TOML ({error})", "docs/merging.md shows a recipe") from None
        if set(values) != {"merge"} or not isinstance(values["merge"], Mapping):
            raise ConfigError(
                f"{path}: a recipe is one table [merge], got {', '.join(values) or 'nothing'}", ""
            )
        return cls.of({**values["merge"], **(overrides or {})}, root=path.parent)

    @classmethod
    def of(cls, values: Mapping[str, Any], *, root: Path = Path(), where: str = "$.merge") -> "Recipe":
        """Read the table [merge].

        Raises:
            ConfigError: something in it is unknown or cannot be used.
        """
        nested = {name: v for name, v in values.items() if _is_recipe(v)}
        paths, sources = _models(values, root, where)
        inner = {
            name: cls.of({**v, "paths": {**paths, **v.get("paths", {})}}, root=root, where=f"{where}.{name}")
            for name, v in nested.items()
        }
        if "expression" in values:
            return _algebra(values, paths, sources, inner, root, where)
        if not isinstance(values.get("method"), str):
            raise ConfigError(f"missing field 'method' - at {where}", "heredity methods lists them")
        kind = find_method(values["method"])
        given = {k: v for k, v in values.items() if k not in _RESERVED and k not in nested}
        used, notes = checked(kind, given, where)
        base = values.get("base")
        slices = _slices(values, kind, base, where) if "slices" in values else ()
        if not slices:
            if not sources:
                raise ConfigError(
                    f"missing field 'models' - at {where}", 'name them: models = ["left", "right"]'
                )
            used, sources = _spread(kind, used, sources, base)
            slices = (Slice(sources=tuple(sources)),)
        return cls(
            method=values["method"], slices=slices, base=base, parameters=used, paths=paths, nested=inner,
            seed=int(values.get("seed", 0)), root=root, notes=notes, **_result(values, root, where),
        )  # fmt: skip

    @property
    def kind(self) -> type[Method]:
        """The class of the method."""
        return find_method(self.method)

    def record(self) -> dict[str, Any]:
        """Return plain values that say the same, for the card and the lock."""
        keep = {
            "method": self.method, "base": self.base, "dtype": self.dtype,
            "tokenizer": self.tokenizer.record() if self.tokenizer else None,
            "chat_template": self.chat_template, "donor": self.donor, "seed": self.seed or None,
            "output": None if self.output == "model" else self.output, "rank": self.rank,
        }  # fmt: skip
        values: dict[str, Any] = {k: v for k, v in keep.items() if v is not None}
        values |= msgspec.to_builtins(self.parameters)
        if len(self.slices) == 1 and all(s.layers is None for s in self.slices[0].sources):
            sources = self.slices[0].sources
            plain = not any(s.parameters for s in sources)
            values["models"] = [s.model if plain else {"model": s.model, **s.parameters} for s in sources]
        else:
            values["slices"] = [_slice_record(s) for s in self.slices]
        if self.paths:
            values["paths"] = dict(self.paths)
        return values | {name: recipe.record() for name, recipe in self.nested.items()}


def asked(
    recipe: Recipe, *, donor: str | None = None, dtype: str | None = None, as_adapter: bool = False,
    rank: int | None = None,
) -> Recipe:  # fmt: skip
    """Return a recipe with what options of the command line say of the result.

    Args:
        recipe: as it was read.
        donor: a name of the recipe, a path or a Hub id.
        dtype: of the weights.
        as_adapter: write an adapter.
        rank: of the adapter.

    Raises:
        ConfigError: a rank, and no adapter.
    """
    changed: dict[str, Any] = {}
    if donor is not None:
        names = {s.model for entry in recipe.slices for s in entry.sources} | {*recipe.paths, *recipe.nested}
        here = donor not in names and Path(donor).exists()  # as seen from here, not from the recipe
        changed["donor"] = str(Path(donor).absolute()) if here else donor
    changed |= {} if dtype is None else {"dtype": DTYPES[dtype]}
    changed |= {"output": "adapter"} if as_adapter else {}
    if rank is not None:
        if not as_adapter and recipe.output != "adapter":
            raise ConfigError("--rank is of an adapter", "add --as-adapter")
        changed["rank"] = rank
    return msgspec.structs.replace(recipe, **changed)


def placed(record: Mapping[str, Any], models: Mapping[str, str]) -> dict[str, Any]:
    """Return a recipe's plain values, its models and those of its chains found where `models` says.

    Args:
        record: of a recipe.
        models: names → paths, whatever folder the recipe was read from.
    """
    inner = {k: placed(v, models) for k, v in record.items() if _is_recipe(v)}
    return {**record, **inner, "paths": {**record.get("paths", {}), **models}}


def checked(
    kind: type[Method], given: Mapping[str, Any], where: str
) -> tuple[dict[str, Setting], tuple[str, ...]]:
    """Return the parameters that a method has, and notes about those that change nothing.

    Raises:
        ConfigError: the method knows nothing of a key.
    """
    known = kind.__struct_encode_fields__
    notes = tuple(f"{key} has no effect on {kind.__name__}" for key in given if key in kind.ignored)
    for key in given:
        if key not in known and key not in kind.ignored:
            raise ConfigError(
                f"unknown field '{key}' - at {where}", f"{kind.__name__} has: {', '.join(known)}"
            )
    return {key: _gradient(value) for key, value in given.items() if key in known}, notes


def _is_recipe(value: Any) -> bool:
    return isinstance(value, Mapping) and ("method" in value or "expression" in value)


def _models(values: Mapping[str, Any], root: Path, where: str) -> tuple[dict[str, str], list[Source]]:
    """Return names → paths and the models in order, from `models`, or a family's `members` or `labels`."""
    paths: dict[str, str] = dict(values.get("paths", {}))
    if "family" in values:
        from heredity.family import Family

        found = Family.load(root / values["family"])
        paths |= {m.name: str(p if (p := found.root / m.path).exists() else m.path) for m in found.members}
        wanted = values.get("labels", {})
        chosen = values.get("members") or [
            m.name
            for m in found.members
            if ("labels" in values and all(m.labels.get(k) == v for k, v in wanted.items()))
        ]
        if chosen and "models" not in values:
            return paths, [Source(model=name) for name in chosen]
    models = values.get("models", [])
    if isinstance(models, Mapping):
        return paths | {str(k): str(v) for k, v in models.items()}, [Source(model=str(k)) for k in models]
    if not isinstance(models, Sequence) or isinstance(models, str):
        raise ConfigError(
            f"expected a list or a table of models - at {where}.models", 'models = ["left", "right"]'
        )
    sources = []
    for i, entry in enumerate(models):
        if isinstance(entry, str):
            sources.append(Source(model=entry))
        elif isinstance(entry, Mapping) and isinstance(entry.get("model"), str):
            own = {k: _gradient(v) for k, v in entry.items() if k not in ("model", "lora")}
            sources.append(Source(model=_model_name(entry), parameters=own))
        else:
            raise ConfigError(f"expected a name or a table with 'model' - at {where}.models[{i}]", "")
    return paths, sources


def _slices(values: Mapping[str, Any], kind: type[Method], base: str | None, where: str) -> tuple[Slice, ...]:
    slices = []
    for i, entry in enumerate(values["slices"]):
        here = f"{where}.slices[{i}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("sources"), list):
            raise ConfigError(
                f"missing field 'sources' - at {here}", 'sources = [{ model = "a", layers = [0, 8] }]'
            )
        sources = []
        for source in entry["sources"]:
            if not isinstance(source, Mapping) or "model" not in source or "layers" not in source:
                raise ConfigError(f"a source needs 'model' and 'layers' - at {here}", "")
            rest = {k: v for k, v in source.items() if k not in ("model", "layers", "lora")}
            own, _ = checked(kind, rest, here)
            layers = tuple(source["layers"])
            sources.append(Source(model=_model_name(source), layers=layers, parameters=own))
        used, _ = checked(kind, {k: v for k, v in entry.items() if k not in ("sources", "base")}, here)
        used, sources = _spread(kind, used, sources, entry.get("base", base))
        slices.append(Slice(sources=tuple(sources), base=entry.get("base"), parameters=used))
    return tuple(slices)


def _spread(
    kind: type[Method], given: dict[str, Setting], sources: list[Source], base: str | None
) -> tuple[dict[str, Setting], list[Source]]:
    """Hand a per-model list of values to the models."""
    taking = [s for s in sources if s.model != base or kind.inputs.base == "ignored"]
    if kind.inputs.base == "first" and base is None:
        taking = taking[1:]
    rest = dict(given)
    for name in per_model_fields(kind):
        value = given.get(name)
        if (
            not isinstance(value, list | tuple)
            or isinstance(value, _Gradient)
            or any(isinstance(v, Mapping) for v in value)
        ):
            continue
        if len(value) != len(taking):
            raise ConfigError(
                f"{name} has {len(value)} values for {len(taking)} models",
                "a gradient is {gradient = [0, 1]}",
            )
        each = dict(zip((s.model for s in taking), value, strict=True))
        sources = [
            msgspec.structs.replace(s, parameters={name: each[s.model], **s.parameters})
            if s.model in each
            else s
            for s in sources
        ]
        del rest[name]
    return rest, sources


def _algebra(
    values: Mapping[str, Any],
    paths: dict[str, str],
    sources: list[Source],
    inner: "dict[str, Recipe]",
    root: Path,
    where: str,
) -> Recipe:
    extra = [k for k in values if k not in _RESERVED and k not in inner]
    if extra:
        raise ConfigError(f"unknown field '{extra[0]}' - at {where}", "an expression has no other parameters")
    terms = expression.coefficients(values["expression"])
    expression.check_names(terms, {**paths, **inner, **{s.model: s for s in sources}})
    return Recipe(
        method="linear",
        slices=(Slice(sources=tuple(Source(model=n, parameters={"weight": c}) for n, c in terms.items())),),
        parameters={"normalize": False}, paths=paths, nested=inner, root=root, **_result(values, root, where),
        notes=(f"linear by the expression {values['expression']}",),
    )  # fmt: skip


class _Gradient(list[Any]):
    """A list that is a gradient, even where a list would be one value for each model."""


def _gradient(value: Any) -> Setting:
    if isinstance(value, Mapping) and set(value) == {"gradient"}:
        return _Gradient(value["gradient"])
    if isinstance(value, Mapping) and "value" in value:
        return {**value, "value": _gradient(value["value"])}
    if isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        return [_gradient(v) for v in value]
    return value


def _result(values: Mapping[str, Any], root: Path, where: str) -> dict[str, Any]:
    """Return what a recipe says of the result, besides its weights."""
    dtype, output, rank = values.get("dtype"), values.get("output", "model"), values.get("rank")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype '{dtype}' cannot be written - at {where}", f"one of {', '.join(DTYPES)}")
    if output not in ("model", "adapter"):
        raise ConfigError(f"output '{output}' is not written - at {where}", '"model" or "adapter"')
    if rank is not None and (output != "adapter" or not isinstance(rank, int) or rank < 1):
        raise ConfigError(
            f"rank {rank!r} is not one of an adapter - at {where}",
            'output = "adapter" and a rank of 1 or more',
        )
    template = values.get("chat_template")
    if not isinstance(template, str | None):
        raise ConfigError(f"expected a text - at {where}.chat_template", '"auto", or a Jinja template')
    return {
        "dtype": None if dtype is None else DTYPES[dtype],
        "tokenizer": read_tokens(values.get("tokenizer"), f"{where}.tokenizer", _model_name),
        "chat_template": template_text(template, root) if template else None,
        "donor": values.get("donor"), "output": output, "rank": rank,
    }  # fmt: skip


def _model_name(value: Any) -> str:
    """Return the name of a model that may have an adapter on it: "base", "base+adapter", {model, lora}."""
    if isinstance(value, Mapping) and isinstance(value.get("model"), str):
        return f"{value['model']}+{value['lora']}" if value.get("lora") else str(value["model"])
    if not isinstance(value, str):
        raise ConfigError(f"{value!r} is no model", 'give a name, or { model = "base", lora = "adapter" }')
    return value


def _slice_record(entry: Slice) -> dict[str, Any]:
    sources = [{"model": s.model, "layers": list(s.layers or ()), **s.parameters} for s in entry.sources]
    return {"sources": sources, **({"base": entry.base} if entry.base else {}), **entry.parameters}
