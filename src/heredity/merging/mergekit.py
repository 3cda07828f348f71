"""mergekit's YAML, as users have it, read into a recipe.  Source: the format of mergekit 0.1.5.

`dtype` is the peer's arithmetic and, without `out_dtype`, the result's format; here arithmetic is fp32.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from heredity.errors import ConfigError
from heredity.merging._discovery import method as find_method
from heredity.merging._discovery import names
from heredity.merging._method import Method
from heredity.merging.recipe import DTYPES, Recipe, Slice, Source
from heredity.merging.settings import Setting
from heredity.merging.tokenizer_files import template_text
from heredity.merging.tokens import Tokens, read_tokens

_TOP = (
    "modules", "slices", "models", "merge_method", "base_model", "dtype", "tokenizer_source", "tokenizer",
    "chat_template", "out_dtype", "parameters", "name",
)  # fmt: skip
_RENAMED = {"nuslerp_row_wise": "row_wise", "nuslerp_flatten": "flatten"}


def parse(content: str, path: Path, overrides: Mapping[str, Any]) -> Recipe:
    """Read mergekit's YAML.

    Raises:
        ConfigError: not YAML, or something that is not supported, by name.
    """
    try:
        values = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})", "") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: not a mergekit configuration", "it has merge_method and models")
    for key in values:
        if key not in _TOP:
            raise ConfigError(f"{path}: unknown field '{key}'", f"mergekit's are: {', '.join(_TOP)}")
    if not isinstance(values.get("merge_method"), str):
        raise ConfigError(f"{path}: missing field 'merge_method'", "")
    kind = find_method(values["merge_method"])
    reader = _Reader(path, kind)
    module, outer = _module(values, path)
    base = reader.reference(values["base_model"]) if values.get("base_model") else None
    if module.get("models"):
        sources = tuple(reader.source(entry) for entry in module["models"])
        if base is not None and base not in [s.model for s in sources]:
            sources = (*sources, Source(model=base))  # as the peer: a base that is not listed comes last
        slices: tuple[Slice, ...] = (Slice(sources=sources),)
    elif module.get("slices"):
        slices = tuple(reader.slice(entry) for entry in module["slices"])
    else:
        raise ConfigError(f"{path}: no models and no slices", "name what to merge")
    given = reader.parameters({**(values.get("parameters") or {}), **(outer or {}), **overrides})
    template = values.get("chat_template")
    if not isinstance(template, str | None):
        raise ConfigError(f"{path}: 'chat_template' is not a text", "give 'auto', or a Jinja template")
    return Recipe(
        method=values["merge_method"], slices=slices, base=base, parameters=given,
        dtype=_dtype(values, path), tokenizer=_tokenizer(values, path, reader), donor=base,
        chat_template=template_text(template, path.parent) if template else None, root=path.parent,
        notes=tuple(dict.fromkeys(reader.notes)),
    )  # fmt: skip


class _Reader:
    """Reads the parts of one file and collects what has no effect."""

    def __init__(self, path: Path, kind: type[Method]) -> None:
        self.path, self.kind = path, kind
        self.notes: list[str] = []

    def source(self, entry: Any) -> Source:
        """Read a model, whole or of a slice."""
        entry = {"model": entry} if isinstance(entry, str) else entry
        self._known(entry, ("model", "layer_range", "parameters"))
        layers = entry.get("layer_range")
        own = self.parameters(entry.get("parameters") or {})
        span = None if layers is None else (int(layers[0]), int(layers[1]))
        return Source(model=self.reference(entry["model"]), layers=span, parameters=own)

    def slice(self, entry: Any) -> Slice:
        """Read a slice of the result."""
        self._known(entry, ("sources", "base_model", "parameters", "residual_weight"))
        if entry.get("residual_weight") is not None:
            raise ConfigError(
                f"{self.path}: 'residual_weight' is not supported", "mergekit does not use it either"
            )
        sources = tuple(self.source(source) for source in entry["sources"])
        if any(source.layers is None for source in sources):
            raise ConfigError(f"{self.path}: a source of a slice has no 'layer_range'", "")
        base = self.reference(entry["base_model"]) if entry.get("base_model") else None
        return Slice(sources=sources, base=base, parameters=self.parameters(entry.get("parameters") or {}))

    def parameters(self, given: Mapping[str, Setting]) -> dict[str, Setting]:
        """Return the method's parameters; note those of other methods, refuse what no method has.

        Raises:
            ConfigError: no method has such a parameter.
        """
        found: dict[str, Setting] = {}
        for key, value in given.items():
            name = _RENAMED.get(key, key)
            if name in self.kind.__struct_encode_fields__:
                found[name] = value
            elif name in self.kind.ignored or any(_has(find_method(other), name) for other in names()):
                self.notes.append(f"{key} has no effect on {self.kind.__name__}")
            else:
                raise ConfigError(
                    f"{self.path}: no method has a parameter '{key}'", "mend it or leave it out"
                )
        return found

    def reference(self, value: Any) -> str:
        """Return a model's path or Hub id: "base@revision", "base+adapter", {model, lora}, {path, revision}."""
        if not isinstance(value, Mapping):
            return str(value)
        if value.get("override_architecture"):
            raise ConfigError(
                f"{self.path}: 'override_architecture' is not supported", "edit config.json's architectures"
            )
        if set(value) - {"model", "lora", "override_architecture", "path", "revision"}:
            raise ConfigError(f"{self.path}: {dict(value)!r} is no model", "it has model and lora")
        if "path" in value:
            return str(value["path"]) + (f"@{value['revision']}" if value.get("revision") else "")
        base = self.reference(value.get("model"))
        return f"{base}+{self.reference(value['lora'])}" if value.get("lora") else base

    def _known(self, entry: Any, keys: tuple[str, ...]) -> None:
        if not isinstance(entry, Mapping) or not ({"model"} <= set(entry) or {"sources"} <= set(entry)):
            raise ConfigError(f"{self.path}: {entry!r} is no model and no slice", "")
        for key in entry:
            if key not in keys:
                raise ConfigError(f"{self.path}: unknown field '{key}'", f"here may be: {', '.join(keys)}")


def _has(kind: type[Method], key: str) -> bool:
    return key in kind.__struct_encode_fields__ or key in kind.ignored


def _module(values: Mapping[str, Any], path: Path) -> tuple[Mapping[str, Any], Mapping[str, Setting] | None]:
    present = [key for key in ("models", "slices", "modules") if values.get(key)]
    if len(present) != 1:
        raise ConfigError(f"{path}: exactly one of 'models', 'slices' and 'modules' must be there", "")
    if present[0] != "modules":
        return values, None
    modules = values["modules"]
    if len(modules) != 1:
        raise ConfigError(
            f"{path}: {len(modules)} 'modules' are not supported, one is",
            "name the models once, and use filters on the tensors' names",
        )
    (module,) = modules.values()
    for key in module:
        if key not in ("slices", "models", "parameters"):
            raise ConfigError(f"{path}: unknown field '{key}' of a module", "")
    return module, module.get("parameters")


def _tokenizer(values: Mapping[str, Any], path: Path, reader: _Reader) -> Tokens | None:
    source, table = values.get("tokenizer_source"), values.get("tokenizer")
    if source is not None and table is not None:
        raise ConfigError(f"{path}: both 'tokenizer_source' and 'tokenizer'", "keep one")
    if source is not None:
        return Tokens(source=reader.reference(source))
    if isinstance(table, str):
        raise ConfigError(f"{path}: 'tokenizer' is not a table", f"tokenizer: {{source: {table}}}")
    return read_tokens(table, f"{path}: tokenizer", reader.reference)


def _dtype(values: Mapping[str, Any], path: Path) -> str | None:
    for key in ("out_dtype", "dtype"):
        if values.get(key) is not None:
            if values[key] not in DTYPES:
                raise ConfigError(
                    f"{path}: {key} '{values[key]}' cannot be written", f"one of {', '.join(DTYPES)}"
                )
            return DTYPES[values[key]]
    return None
