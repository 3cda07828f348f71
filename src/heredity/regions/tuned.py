"""What a place is worth as a start: a copy of it is fine-tuned on a task, and its validation and test rows scored."""

import copy
from hashlib import sha256
from typing import Any

import msgspec
import numpy as np
import polars as pl

from heredity.models.batches import EncodedTask
from heredity.models.classifier import Classifier, pooling_of
from heredity.models.fit import fit
from heredity.models.tuning import FineTuning
from heredity.regions.evaluations import Score
from heredity.regions.metrics import digest_of
from heredity.regions.place import Place


class AfterTuning(msgspec.Struct, frozen=True, eq=False):
    """Scores after a fine-tune: "TASK: validation" and "TASK: test".

    Attributes:
        encoded: the task.
        config: how it is fine-tuned; `layers` and `lora` are not for starts.
        seed: of the head, the order of the data and the dropout.
        dtype: of the forward pass.
    """

    encoded: EncodedTask
    config: FineTuning
    seed: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """ "tuned"."""
        return "tuned"

    @property
    def data(self) -> tuple[str, ...]:
        """Validation part and test part."""
        return tuple(f"{self.encoded.task.name}: {part}" for part in ("validation", "test"))

    @property
    def digest(self) -> str:
        """Of the data, the settings and the seed."""
        settings = msgspec.json.encode(self.config).decode()
        return sha256(
            f"{digest_of(self.name, self.encoded, self.dtype)} {settings} {self.seed}".encode()
        ).hexdigest()

    @property
    def rows_seen(self) -> int:
        """Training rows that the fine-tune passes over, if it is not stopped early."""
        return self.config.epochs * len(self.encoded.train)

    def measure(self, model: Any, place: Place) -> list[Score]:
        """Fine-tune a copy of the model and score it."""
        live = copy.deepcopy(model)
        if self.encoded.task.labels:
            live = Classifier(live, len(self.encoded.task.labels), pooling=pooling_of(live), seed=self.seed)
        made = fit(live, self.encoded, self.config, seed=self.seed, dtype=self.dtype, label=place.name)
        return [
            _score(name, table)
            for name, table in zip(self.data, (made.validation, made.predictions), strict=True)
        ]


def _score(name: str, table: pl.DataFrame) -> Score:
    loss, correct, count = (table[column].to_numpy() for column in ("loss", "correct", "count"))
    total = float(count.sum())
    one = np.maximum(count, 1)
    return Score(
        data=name, loss=float(loss.sum() / total), accuracy=float(correct.sum() / total), n=int(total),
        losses=(loss / one).astype(np.float32), hits=(correct / one).astype(np.float32),
        weights=count.astype(np.float32),
    )  # fmt: skip
