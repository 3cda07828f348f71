"""What a training reported, kept on disk as it goes: a resumed training has the history of an undisturbed one."""

from pathlib import Path
from typing import Any

import msgspec

from heredity.atomic import write_bytes
from heredity.errors import StoreError
from heredity.features.train import Metrics

EVERY = 50
"""Steps from one row to the next; the last step has one, too."""


class Diary:
    """Rows of metrics, written with every new one.

    Attributes:
        path: the file, a JSON list.
    """

    def __init__(self, path: Path, steps: int, labels: dict[str, Any] | None = None) -> None:
        """Begin, or go on where the file's training was interrupted.

        Args:
            path: the file.
            steps: of the whole training.
            labels: what every row begins with.

        Raises:
            StoreError: the file is damaged.
        """
        self.path, self._steps, self._labels = path, steps, labels or {}
        self._before = _read(path) if path.exists() else []
        self._rows: list[dict[str, Any]] = []

    def log(self, values: Metrics) -> None:
        """Take one step's metrics: what `train` calls back with."""
        if not self._rows and self._before:  # resumed: keep what is there from before the checkpoint
            self._rows.extend(row for row in self._before if row["step"] < values["step"])
            self._before = []
        if values["step"] % EVERY == 0 or values["step"] == self._steps:
            self._rows.append({**self._labels, **values})
            write_bytes(self.path, msgspec.json.encode(self._rows))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows; those of the file when the checkpoint was of the last step."""
        return self._rows or self._before


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise StoreError(
            f"{path}: is damaged ({error})",
            "delete it and the checkpoint beside it: the training starts anew",
        ) from None
    return rows
