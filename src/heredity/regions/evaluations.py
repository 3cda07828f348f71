"""Measured places, kept in a file of one JSON object a line: a run that is killed goes on where it stopped."""

import base64
import json
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from heredity.errors import StoreError, naming_full_disk


class Score(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What one place is worth on one set of data.

    Attributes:
        data: name of the set, or of a domain of a token stream.
        loss: nats; infinite where weights, activations or the loss are not finite, and `note` says which.
        accuracy: share right; NaN where the loss is infinite.
        n: rows or tokens.
        note: what went wrong, or empty.
        losses: of each row (or document), where they are kept.
    """

    data: str
    loss: float
    accuracy: float
    n: int
    note: str = ""
    losses: Float32[ndarray, " rows"] | None = None


class Evaluations:
    """Scores by key; a key names a place, the data and the metric.

    Attributes:
        path: the file, or None to keep nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, list[Score]] = {}
        self.seconds: dict[str, float] = {}
        if path is not None and path.exists():
            for line in path.read_bytes().split(b"\n"):
                self._read(line)

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> list[Score]:
        return self._known[key]

    def add(self, key: str, scores: list[Score], *, seconds: float) -> None:
        """Keep scores, in the file first."""
        line = json.dumps({"key": key, "seconds": round(seconds, 4), "scores": [_plain(s) for s in scores]})
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with naming_full_disk(self.path):
                # one write of a whole line: what several processes append is not mixed
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                try:
                    _write_all(descriptor, ("\n" + line + "\n").encode())
                finally:
                    os.close(descriptor)
        self._known[key], self.seconds[key] = scores, seconds

    def _read(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            scores = [_score(values) for values in entry["scores"]]
            self._known[entry["key"]], self.seconds[entry["key"]] = scores, float(entry["seconds"])
        except (ValueError, KeyError, TypeError):
            return  # empty, or cut short when the process died: it is measured again


def _write_all(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) != len(data):
        raise StoreError("an evaluation could not be written whole", "free some space, then run again")


def _plain(score: Score) -> dict[str, Any]:
    values: dict[str, Any] = {
        "data": score.data, "n": score.n, "note": score.note,
        "loss": score.loss if math.isfinite(score.loss) else None,
        "accuracy": score.accuracy if math.isfinite(score.accuracy) else None,
    }  # fmt: skip
    if score.losses is not None:
        values["losses"] = base64.b64encode(score.losses.astype("<f4").tobytes()).decode()
    return values


def _score(values: dict[str, Any]) -> Score:
    losses = values.get("losses")
    return Score(
        data=values["data"], n=int(values["n"]), note=values["note"],
        loss=math.inf if values["loss"] is None else float(values["loss"]),
        accuracy=math.nan if values["accuracy"] is None else float(values["accuracy"]),
        losses=None if losses is None else np.frombuffer(base64.b64decode(losses), "<f4"),
    )  # fmt: skip
