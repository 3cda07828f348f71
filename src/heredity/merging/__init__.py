"""Merge checkpoints: `merge(Slerp(t=0.58), [left, right]).save(out)`.

Every method is a file of this package with a class of the same name (`task_arithmetic.py`: `TaskArithmetic`);
nothing lists them.
"""

from typing import Any

from heredity.merging import _discovery

_HOME = {
    "Block": "_method",
    "DataMethod": "_method",
    "ElementMethod": "_method",
    "Inputs": "_method",
    "Merge": "engine",
    "Method": "_method",
    "Recipe": "recipe",
    "SpanMethod": "_method",
    "merge": "engine",
}


def __getattr__(name: str) -> Any:
    return _discovery.attribute(name, _HOME)


def __dir__() -> list[str]:
    return sorted([*_HOME, *(_discovery.method(name).__name__ for name in _discovery.names())])
