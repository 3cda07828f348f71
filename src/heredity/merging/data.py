"""Carry out methods that need statistics of text: whole tensors, averaged where nothing is known."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from heredity.adapter import AdaptedCheckpoint
from heredity.checkpoint import Checkpoint
from heredity.errors import ConfigError, MismatchError, StoreError
from heredity.merging._discovery import name_of
from heredity.merging._method import DataMethod
from heredity.merging.lazy import MergedCheckpoint
from heredity.merging.plan import Group, Plan
from heredity.statistics import Statistics, fingerprint

_CONV1D = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")  # their layers keep [in, out]


def data_blocks(
    group: Group, method: DataMethod, name: str, facts: dict[str, Any]
) -> Iterator[Float32[ndarray, "n"]]:
    """Yield the merged tensor, in one piece.

    Raises:
        ConfigError: there is not one statistics file for each model.
        MismatchError: a statistics file was made of another model.
    """
    _check_count(method, group)
    opened = []
    for path, checkpoint in zip(method.statistics, group.inputs, strict=True):
        known = _statistics(path, _changed(Path(path)))
        _check_made_of(known, checkpoint)
        opened.append(known.renamed({name: checkpoint.info(name).name}))
    weights = [checkpoint.read(name) for checkpoint in group.inputs]
    transposed = group.inputs[0].config.get("model_type") in _CONV1D
    transposed |= any(known.is_conv1d(name) for known in opened)
    merged = method.solve(name, weights, opened, transposed)
    if merged is None:
        facts["averaged"] = True
        merged = np.asarray(np.mean(weights, axis=0, dtype=np.float64), np.float32)
    yield np.ascontiguousarray(merged, np.float32).reshape(-1)


def statistics_files(plan: Plan) -> list[Path]:
    """Return the statistics files that a merge reads, and those of merges within it, each once.

    Raises:
        ConfigError: there is not one for each model.
        StoreError: one is missing.
    """
    found: dict[Path, None] = {}
    for group in plan.groups:
        for method in dict.fromkeys(group.methods.values()):
            if isinstance(method, DataMethod):
                _check_count(method, group)
                found |= dict.fromkeys(map(Path, method.statistics))
        for given in group.inputs:
            if isinstance(given, MergedCheckpoint):
                found |= dict.fromkeys(statistics_files(given.merge.plan))
    for file in found:
        if not file.is_file():
            raise StoreError(
                f"{file}: no such statistics file", "heredity harvest --input-gram or --fisher makes it"
            )
    return list(found)


def _check_count(method: DataMethod, group: Group) -> None:
    if len(method.statistics) != len(group.inputs):
        raise ConfigError(
            f"{name_of(type(method))} needs a statistics file for each of {len(group.inputs)} models, "
            f"got {len(method.statistics)}",
            "heredity harvest --input-gram or --fisher makes them",
        )


@lru_cache(maxsize=64)
def _statistics(path: str, changed: int) -> Statistics:
    return Statistics.open(path)


def _check_made_of(known: Statistics, checkpoint: Checkpoint) -> None:
    if "model" not in known.metadata or isinstance(checkpoint, MergedCheckpoint | AdaptedCheckpoint):
        return
    changed = tuple(_changed(file) for file in checkpoint.files)
    if _fingerprint(checkpoint.path, changed) != known.metadata["model"]:
        raise MismatchError(
            f"{known.path}: was made of another model than {checkpoint.path}",
            "statistics go with the models in their order; harvest again if the model was changed",
        )


@lru_cache(maxsize=64)
def _fingerprint(path: Path, changed: tuple[int, ...]) -> str:
    return fingerprint(Checkpoint.open(path))


def _changed(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0
