"""Carry out methods that need statistics of text: whole tensors, averaged where nothing is known."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.merging._discovery import name_of
from heredity.merging._method import DataMethod
from heredity.merging.plan import Group
from heredity.statistics import Statistics


def data_blocks(
    group: Group, method: DataMethod, name: str, facts: dict[str, Any]
) -> Iterator[Float32[ndarray, "n"]]:
    """Yield the merged tensor, in one piece.

    Raises:
        ConfigError: there is not one statistics file for each model.
    """
    if len(method.statistics) != len(group.inputs):
        raise ConfigError(
            f"{name_of(type(method))} needs a statistics file for each of {len(group.inputs)} models, "
            f"got {len(method.statistics)}",
            "heredity harvest --input-gram or --fisher makes them",
        )
    opened = [Statistics.open(path) for path in method.statistics]
    weights = [checkpoint.read(name) for checkpoint in group.inputs]
    transposed = group.inputs[0].config.get("model_type") == "gpt2"  # its Conv1D keeps [in, out]
    merged = method.solve(name, weights, opened, transposed)
    if merged is None:
        facts["averaged"] = True
        merged = np.asarray(np.mean(weights, axis=0, dtype=np.float64), np.float32)
    yield np.ascontiguousarray(merged, np.float32).reshape(-1)
