"""What the Gram matrix of a family says: pure functions, each usable on any matrix, none touching a weight.

    from heredity import geometry
    similarity = geometry.read_matrix("cosine_70.csv")
    geometry.clusters.cluster(similarity, 14).labels

Rooms are loaded on first use, so that scikit-learn is only imported by those who cluster.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("Matrix", "read_matrix"):
        return getattr(importlib.import_module("heredity.geometry.matrix"), name)
    try:
        return importlib.import_module(f"heredity.geometry.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"heredity.geometry.{name}":
            raise
        raise AttributeError(f"module 'heredity.geometry' has no attribute {name!r}") from None
