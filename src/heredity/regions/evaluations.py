"""Measured places, kept in a file of one JSON object a line: a run that is killed goes on where it stopped."""

import base64
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from jaxtyping import Float32, Float64
from numpy import ndarray

from heredity.errors import StoreError, naming_full_disk
from heredity.seeds import generator

SCHEMA = {
    "place": pl.String, "data": pl.String, "loss": pl.Float64, "accuracy": pl.Float64, "n": pl.Int64,
    "note": pl.String,
}  # fmt: skip


class Score(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What one place is worth on one set of data.

    Attributes:
        data: name of the set, or of a domain of a token stream.
        loss: nats; infinite where weights, activations or the loss are not finite, and `note` says which.
        accuracy: share right; NaN where the loss is infinite.
        n: rows or tokens.
        note: what went wrong, or empty.
        losses: of each row (or document), where they are kept.
        hits: 1 where a row was right, where they are kept.
        weights: of each loss in the mean: tokens of each document; None counts all alike.
    """

    data: str
    loss: float
    accuracy: float
    n: int
    note: str = ""
    losses: Float32[ndarray, " rows"] | None = None
    hits: Float32[ndarray, " rows"] | None = None
    weights: Float32[ndarray, " rows"] | None = None


class Measured(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Scores of places on sets of data.

    Attributes:
        places: names, one for each row.
        data: names, one for each column.
        scores: row by row.
    """

    places: tuple[str, ...]
    data: tuple[str, ...]
    scores: tuple[tuple[Score, ...], ...]

    @property
    def loss(self) -> Float64[ndarray, "places data"]:
        """Losses, nats; infinite where something was not finite."""
        return np.array([[score.loss for score in row] for row in self.scores]).reshape(len(self.places), -1)

    @property
    def accuracy(self) -> Float64[ndarray, "places data"]:
        """Accuracies; NaN where something was not finite."""
        return np.array([[score.accuracy for score in row] for row in self.scores]).reshape(
            len(self.places), -1
        )

    def of(self, data: Sequence[str]) -> "Measured":
        """Return the columns of some sets of data, in the order given."""
        columns = [self.data.index(name) for name in data]
        return Measured(
            places=self.places,
            data=tuple(data),
            scores=tuple(tuple(row[c] for c in columns) for row in self.scores),
        )

    def table(self) -> pl.DataFrame:
        """Give a row for each place and set of data: place, data, loss, accuracy, n, note."""
        rows = [
            (place, s.data, s.loss, s.accuracy, s.n, s.note)
            for place, scores in zip(self.places, self.scores, strict=True)
            for s in scores
        ]
        return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def resampled_means(
    scores: Sequence[Score], draws: int, *, seed: int, name: str
) -> Float64[ndarray, "draws places"] | None:
    """Resample the rows of one set of data, the same for all places, and return every place's mean loss.

    Returns:
        None where a place kept no losses of its rows.
    """
    kept = [score.losses for score in scores if score.losses is not None]
    if len(kept) < len(scores) or not kept:
        return None
    losses = np.array(kept, np.float64)
    n = losses.shape[1]
    weights = np.ones(n) if scores[0].weights is None else scores[0].weights.astype(np.float64)
    counts = generator(seed, "resampled rows", name).multinomial(n, np.full(n, 1 / n), size=draws) * weights
    means: Float64[ndarray, "draws places"] = counts @ losses.T / counts.sum(axis=1, keepdims=True)
    return means


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
        self.learn(key, scores, seconds=seconds)

    def learn(self, key: str, scores: list[Score], *, seconds: float) -> None:
        """Remember scores that another process has kept in the file."""
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
    for name in ("losses", "hits", "weights"):
        array = getattr(score, name)
        if array is not None:
            values[name] = base64.b64encode(array.astype("<f4").tobytes()).decode()
    return values


def _score(values: dict[str, Any]) -> Score:
    arrays = {
        name: np.frombuffer(base64.b64decode(values[name]), "<f4")
        for name in ("losses", "hits", "weights")
        if name in values
    }
    return Score(
        data=values["data"], n=int(values["n"]), note=values["note"],
        loss=math.inf if values["loss"] is None else float(values["loss"]),
        accuracy=math.nan if values["accuracy"] is None else float(values["accuracy"]),
        **arrays,
    )  # fmt: skip
