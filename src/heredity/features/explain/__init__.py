"""Explain latents in words and score the words: an explainer is a value, one file each, found by its file's name.

`rules.py` defines `Rules`, `llm.py` defines `Llm`; other packages add entry points `heredity.explainers`.

>>> build({"name": "rules", "nulls": 5})
Rules(nulls=5, windows=None, beam=6, penalty=0.03, list_penalty=0.01)
"""

import importlib
import pkgutil
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any

import msgspec

from heredity.errors import ConfigError

_HOMES = {
    "Explainer": "_explainer", "Explanation": "_explainer", "ExplanationError": "_explainer",
    "NotExplained": "_explainer", "Simulation": "_explainer", "Cost": "_explainer", "Halves": "_halves",
    "explanations_table": "_score", "explanations_summary": "_score",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name, name.lower())
    try:
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{home}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def names() -> tuple[str, ...]:
    """Return the names of all explainers, ours and other packages'."""
    ours = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    return tuple(sorted({*ours, *(entry.name for entry in entry_points(group="heredity.explainers"))}))


def build(settings: Mapping[str, Any]) -> Any:
    """Make the explainer that `name` says of the other settings, e.g. `{"name": "rules"}`.

    Raises:
        ConfigError: no such explainer, an unknown setting, or a value that does not fit.
    """
    values = dict(settings)
    name = values.pop("name", None)
    if name not in names():
        near = get_close_matches(str(name), names(), n=1)
        raise ConfigError(
            f"unknown explainer {name!r}",
            f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(names())}",
        )
    try:
        return msgspec.convert(values, _kind(str(name)))
    except msgspec.ValidationError as error:
        raise ConfigError(f"explainer {name!r}: {error}", "see docs/features.md, Explanations") from None


def name_of(explainer: Any) -> str:
    """Return the name by which an explainer's class is found."""
    home, _, name = type(explainer).__module__.rpartition(".")
    if home == __name__:
        return name
    found = (e.name for e in entry_points(group="heredity.explainers") if e.load() is type(explainer))
    return next(found, type(explainer).__name__.lower())


def _kind(name: str) -> type[Any]:
    for entry in entry_points(group="heredity.explainers", name=name):
        outside: type[Any] = entry.load()
        return outside
    module = importlib.import_module(f"{__name__}.{name}")
    inside: type[Any] = getattr(module, name.capitalize())
    return inside
