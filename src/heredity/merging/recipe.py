"""A merge as a file: TOML of our own, or mergekit's YAML, both read into one form.

Everything that a file says is used, noted as without effect, or refused by name.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from heredity.errors import ConfigError
from heredity.merging import expression
from heredity.merging._discovery import method as find_method
from heredity.merging._method import Method, per_model_fields
from heredity.merging.settings import Setting

_RESERVED = (
    "method", "base", "models", "slices", "dtype", "tokenizer", "donor", "seed", "family", "members",
    "labels", "expression", "paths",
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
        tokenizer: "union", "base" or a model's name: whose tokens the rows of the result are.
        donor: whose configuration (and tokenizer) the result gets.
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
    tokenizer: str | None = None
    donor: str | None = None
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
        nested = {
            k: v for k, v in values.items() if isinstance(v, Mapping) and ("method" in v or "expression" in v)
        }
        inner = {k: cls.of(v, root=root, where=f"{where}.{k}") for k, v in nested.items()}
        paths, sources = _models(values, root, where)
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
            dtype=_dtype(values.get("dtype"), where), tokenizer=values.get("tokenizer"),
            donor=values.get("donor"),
            seed=int(values.get("seed", 0)), root=root, notes=notes,
        )  # fmt: skip

    @property
    def kind(self) -> type[Method]:
        """The class of the method."""
        return find_method(self.method)

    def record(self) -> dict[str, Any]:
        """Return plain values that say the same, for the card and the lock."""
        keep = {"method": self.method, "base": self.base, "dtype": self.dtype, "tokenizer": self.tokenizer}
        values: dict[str, Any] = {k: v for k, v in keep.items() if v is not None}
        values |= {"donor": self.donor} if self.donor else {}
        values |= {"seed": self.seed} if self.seed else {}
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
            own = {k: _gradient(v) for k, v in entry.items() if k != "model"}
            sources.append(Source(model=entry["model"], parameters=own))
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
            own, _ = checked(kind, {k: v for k, v in source.items() if k not in ("model", "layers")}, here)
            sources.append(Source(model=source["model"], layers=tuple(source["layers"]), parameters=own))
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
        parameters={"normalize": False}, paths=paths, nested=inner, dtype=_dtype(values.get("dtype"), where),
        tokenizer=values.get("tokenizer"), donor=values.get("donor"), root=root,
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


def _dtype(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if value not in DTYPES:
        raise ConfigError(f"dtype '{value}' cannot be written - at {where}", f"one of {', '.join(DTYPES)}")
    return DTYPES[value]


def _slice_record(entry: Slice) -> dict[str, Any]:
    sources = [{"model": s.model, "layers": list(s.layers or ()), **s.parameters} for s in entry.sources]
    return {"sources": sources, **({"base": entry.base} if entry.base else {}), **entry.parameters}
