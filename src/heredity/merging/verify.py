"""Check a merge that was written: every hash of its lock, and some tensors made again from the inputs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from heredity.adapter import open_adapter
from heredity.checkpoint import Checkpoint
from heredity.digests import algorithm_of, digest_of
from heredity.errors import CheckpointError, ConfigError
from heredity.kernels.encode import encode
from heredity.merging._open import adapter_on_base, input_files, open_input
from heredity.merging.adapter_changes import changes, error_of, sketch
from heredity.merging.engine import Merge
from heredity.merging.output import LOCK, SCHEMA
from heredity.merging.recipe import Recipe, placed
from heredity.merging.resolve import resolve
from heredity.seeds import generator

_ROUNDING = 1e-6  # of factors in float32, as a share of what they make


class Verdict(NamedTuple):
    """What was checked.

    Attributes:
        outputs: files of the result whose hash is right.
        inputs: files of the models whose hash is right.
        unknown: files of the models whose hash the lock does not hold.
        tensors: tensors that were made again and have the same bytes.
    """

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    unknown: tuple[str, ...]
    tensors: tuple[str, ...]


def verify(out: Path | str, *, tensors: int = 3, seed: int = 0, inputs: bool = True) -> Verdict:
    """Check a folder that a merge wrote.

    Args:
        out: folder with heredity.lock.json.
        tensors: how many tensors, drawn at random, are made again; 0 for none.
        seed: of the draw.
        inputs: also check the models' hashes, where the lock has them.

    Raises:
        ConfigError: the folder has no lock.
        CheckpointError: a hash or a tensor differs, or a model is gone.
    """
    out = Path(out)
    lock = read_lock(out)
    for name, known in lock["outputs"].items():
        _check(out / name, known["digest"], "it is not what the merge wrote: merge again with --overwrite")
    right, unknown = [], []
    for model in lock["inputs"] if inputs else []:
        files = {file.name: file for file in input_files(_opened(model))}
        for name, known in model["files"].items():
            label = f"{model['name']}/{name}"
            if known["digest"] is None:
                unknown.append(label)
                continue
            if name not in files:
                raise CheckpointError(
                    f"{model['path']}: has no {name} any more", "find the models of the merge again"
                )
            _check(files[name], known["digest"], "the model is not the one that was merged")
            right.append(label)
    chosen: Sequence[str] = ()
    if tensors:
        chosen = _made_again(out, lock, tensors, seed)
    return Verdict(tuple(lock["outputs"]), tuple(right), tuple(unknown), tuple(chosen))


def read_lock(out: Path) -> dict[str, Any]:
    """Return heredity.lock.json.

    Raises:
        ConfigError: there is none, or another version of heredity wrote it.
    """
    try:
        lock: dict[str, Any] = json.loads((out / LOCK).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{out / LOCK}: cannot be read ({error})", "heredity merge writes it") from None
    if lock.get("schema") != SCHEMA:
        raise ConfigError(
            f"{out / LOCK}: has schema {lock.get('schema')}, not {SCHEMA}: another version of heredity wrote it",
            "merge again with --overwrite",
        )
    return lock


def _opened(model: dict[str, Any]) -> Checkpoint:
    path = str(model["path"])
    parts = adapter_on_base(path) or (path,)
    for part in parts:
        if not Path(part).exists():
            raise CheckpointError(f"{part}: is not there any more", "verify where the models are")
    return open_input(path)


def _check(file: Path, known: str, hint: str) -> None:
    if not file.exists():
        raise CheckpointError(f"{file}: is missing", hint)
    found = digest_of(file, algorithm_of(known))
    if found != known:
        raise CheckpointError(f"{file}: {found[:19]}…, the lock has {known[:19]}…", hint)


def _made_again(out: Path, lock: dict[str, Any], count: int, seed: int) -> list[str]:
    recipe = placed(lock["recipe"]["merge"], lock["models"])
    merge: Merge = resolve(Recipe.of({**recipe, "seed": lock["seed"]}))
    names = list(lock["tensors"])
    chosen: list[str] = sorted(
        generator(seed, "verify").choice(names, size=min(count, len(names)), replace=False).tolist()
    )
    if "adapter" in lock:
        _factors_again(out, lock, merge, chosen)
        return chosen
    written = Checkpoint.open(out)
    for name in chosen:
        raw, done = written.raw(name), 0
        for block in merge.blocks(name):
            piece = encode(block, written.info(name).dtype)
            if not np.array_equal(piece, raw[done : done + piece.nbytes]):
                raise CheckpointError(
                    f"{out}: tensor {name} is not what the recipe makes of the models",
                    "a model or the result was changed",
                )
            done += piece.nbytes
    return chosen


def _factors_again(out: Path, lock: dict[str, Any], merge: Merge, chosen: Sequence[str]) -> None:
    """Check that a written adapter is as far from what the merge makes as its lock says."""
    drawn = sketch(merge)
    written = open_adapter(out, base=drawn.base)
    for change in changes(merge, drawn):
        if change.name not in chosen:
            continue
        if change.delta is None:
            known = np.concatenate([block.copy() for block in merge.blocks(change.name)])
            info = written.info(change.name)
            same = np.array_equal(encode(known, info.dtype), written.raw(change.name))
        else:
            stated = lock["tensors"][change.name]["relative_error"]
            same = abs(error_of(change, written) - stated) <= _ROUNDING + 1e-3 * stated
        if not same:
            raise CheckpointError(
                f"{out}: tensor {change.name} is not what the recipe makes of the adapters",
                "an adapter or the result was changed",
            )
