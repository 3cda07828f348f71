"""Settings as plain nested values: `--set path=value`, and one set of values laid over another."""

import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from heredity.errors import ConfigError


def assigned(values: Mapping[str, Any], assignments: Sequence[str], hint: str) -> dict[str, Any]:
    """Return values with some settings changed: `sae.k=16`, `text.corpora.0.max_bytes=100000`.

    Args:
        values: nested mappings and lists; not changed.
        assignments: each PATH=VALUE; a value is TOML, and what is not TOML is a string. PATH= takes the setting
            out, so that it is as if it had never been set.
        hint: what to say of a path that does not exist.

    Raises:
        ConfigError: no such path, or not an assignment.
    """
    made = deepcopy(dict(values))
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: not key=value", "for example --set sae.k=16")
        try:
            value = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text
        *parents, last = path.strip().split(".")
        place: Any = made
        try:
            for part in parents:
                place = place[int(part)] if isinstance(place, list | tuple) else place[part]
            if not isinstance(place, dict):
                raise KeyError(last)
        except (KeyError, IndexError, ValueError, TypeError):
            table = "add --crosscoder: there is none" if parents[:1] == ["crosscoder"] else hint
            raise ConfigError(f"--set {assignment}: no such setting", table) from None
        if text.strip():
            place[last] = value
        else:
            place.pop(last, None)
    return made


def over(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with others laid over them: tables are merged, all else is replaced."""
    made = dict(values)
    for name, value in changes.items():
        before = made.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        made[name] = over(before, value) if both and isinstance(before, Mapping) else value
    return made
