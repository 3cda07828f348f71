"""heredity: what language models inherit, from their weights and from the features inside."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public names, loaded on first use: `import heredity` stays free of numba, torch and plotly.
_HOME = {
    "Checkpoint": "checkpoint",
    "Family": "family",
    "Gram": "gram",
    "HeredityError": "errors",
    "Point": "point",
    "Run": "run",
    "merge": "merging",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"heredity.{_HOME[name]}"), name)
    try:
        return importlib.import_module(f"heredity.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"heredity.{name}":
            raise
        raise AttributeError(f"module 'heredity' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])
