"""A parameter's value for one tensor: constants, gradients over the layers, filters on names.

Source: mergekit 0.1.5: filters are substrings, the first match wins; a gradient is piecewise linear over
layer / (layers − 1) of its slice; tensors outside the layers have position 0.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from heredity.errors import ConfigError

Scalar = bool | int | float | str
Setting = Any
"""Scalar, list of scalars (gradient), {filter, value}, or a list of {filter, value}."""

_LAYER = re.compile(r"^((?:.*?\.)?)(\d+)(\..+)$")


def layer_of(name: str) -> tuple[str, int] | None:
    """Return the stack (the name before the first number) and the layer of a tensor, or None.

    >>> layer_of("model.layers.3.mlp.up_proj.weight")
    ('model.layers.', 3)
    """
    match = _LAYER.match(name)
    return (match[1], int(match[2])) if match else None


def in_layer(name: str, layer: int) -> str:
    """Return the name of the same tensor in another layer."""
    return _LAYER.sub(lambda m: f"{m[1]}{layer}{m[3]}", name, count=1)


def evaluate(setting: Setting, tensor: str, position: float) -> Scalar | None:
    """Return a setting's value for a tensor at a position in 0 … 1, or None when no filter matches.

    >>> evaluate([{"filter": "mlp", "value": [0, 1]}, {"value": 0.5}], "layers.1.mlp.w", 0.25)
    0.25

    Raises:
        ConfigError: the setting is not one.
    """
    if isinstance(setting, bool | int | float | str):
        return setting
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, Sequence):
        raise ConfigError(
            f"{setting!r} is not a value, a list or filters", "see docs/merging.md, gradients and filters"
        )
    if all(isinstance(value, bool | int | float | str) for value in setting):
        return _gradient(setting, position)
    for condition in setting:
        if not isinstance(condition, Mapping) or not {"value"} <= set(condition) <= {"filter", "value"}:
            raise ConfigError(f"{condition!r} is not a filter", 'write {filter = "mlp", value = 0.5}')
        wanted = condition.get("filter")
        if wanted in (None, "*") or str(wanted) in tensor:
            return evaluate(condition["value"], tensor, position)
    return None


def matched_filters(setting: Setting, tensors: Sequence[str]) -> dict[str, int]:
    """Count for each filter of a setting how many tensors it decides, as first match."""
    conditions = [setting] if isinstance(setting, Mapping) else setting
    if not isinstance(conditions, list | tuple) or not all(isinstance(c, Mapping) for c in conditions):
        return {}
    counts = {str(c.get("filter", "*")): 0 for c in conditions}
    for tensor in tensors:
        for condition in conditions:
            wanted = condition.get("filter")
            if wanted in (None, "*") or str(wanted) in tensor:
                counts[str(condition.get("filter", "*"))] += 1
                break
    return counts


def _gradient(values: Sequence[Scalar], position: float) -> Scalar | None:
    if not values:
        return None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return values[int(position * (len(values) - 1))]
    scaled = position * (len(values) - 1)
    low = int(scaled)
    high = min(len(values) - 1, low + 1)
    part = scaled - low
    return (1 - part) * float(values[low]) + part * float(values[high])
