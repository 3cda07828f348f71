"""Find merge methods by their files' names; other packages add entry points `heredity.merging`."""

import importlib
import pkgutil
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from heredity.errors import ConfigError
from heredity.merging._method import Method

_PACKAGE = "heredity.merging"


@cache
def names() -> tuple[str, ...]:
    """Return the names of all methods, sorted; imports their files."""
    ours = [name for name in _files() if _defined_in(importlib.import_module(f"{_PACKAGE}.{name}"), name)]
    return tuple(sorted({*ours, *(entry.name for entry in entry_points(group=_PACKAGE))}))


@cache
def method(name: str) -> type[Method]:
    """Return the class of the method called `name` (its file's name).

    Raises:
        ConfigError: there is no such method.
    """
    if name in _files() and (found := _defined_in(importlib.import_module(f"{_PACKAGE}.{name}"), name)):
        return found
    for entry in entry_points(group=_PACKAGE, name=name):
        outside: type[Method] = entry.load()
        return outside
    near = get_close_matches(name, names(), n=1)
    raise ConfigError(
        f"unknown merge method '{name}'",
        f"did you mean '{near[0]}'?" if near else f"one of: {', '.join(names())}",
    )


def name_of(kind: type[Method]) -> str:
    """Return the name by which a recipe calls a method's class."""
    home, _, name = kind.__module__.rpartition(".")
    if home == _PACKAGE:
        return name
    return next((e.name for e in entry_points(group=_PACKAGE) if e.load() is kind), kind.__name__.lower())


def attribute(name: str, home: Mapping[str, str]) -> Any:
    """Return a public name of the package, importing only the file that defines it."""
    if name in home:
        return getattr(importlib.import_module(f"{_PACKAGE}.{home[name]}"), name)
    for file in _files():
        if file.replace("_", "") == name.lower():
            module = importlib.import_module(f"{_PACKAGE}.{file}")
            return module if name == file and name.islower() else getattr(module, name)
    raise AttributeError(f"module {_PACKAGE!r} has no attribute {name!r}")


@cache
def _files() -> tuple[str, ...]:
    folder = str(Path(__file__).parent)
    return tuple(sorted(m.name for m in pkgutil.iter_modules([folder]) if not m.name.startswith("_")))


def _defined_in(module: Any, name: str) -> type[Method] | None:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__:
            return value if value.__name__.lower() == name.replace("_", "") else None
    return None
