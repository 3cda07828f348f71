"""Sparse autoencoders: the value `SAE`, `save`, `load`, and one file per variant (`TopK` is in topk.py)."""

import importlib
import pkgutil
from typing import Any

_HOMES = {
    "SAE": "_sae", "Variant": "_variant", "Sparse": "_variant", "load": "_format", "save": "_format",
    "kind_named": "_kinds", "make": "_kinds",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name, name.lower())
    try:
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{home}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def variants() -> list[str]:
    """Return the file names of the variants, e.g. `["l1", "topk"]`."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
