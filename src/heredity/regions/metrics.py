"""What a place is measured by: generalised loss on labelled texts, their own heads' loss, or a language model's."""

import math
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec
import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from heredity.corpora.tokens import TokenStream
from heredity.errors import CheckpointError, MismatchError, StoreError
from heredity.models.batches import EncodedTask
from heredity.models.classifier import HEAD, Pooling, pooling_of
from heredity.models.evaluate import lm_scores
from heredity.models.finetune import RECORD, read_finetuned
from heredity.models.fit import outcomes, summary
from heredity.models.load import torch
from heredity.models.probe import features, probe
from heredity.regions.evaluations import Score
from heredity.regions.place import Place


class Metric(Protocol):
    """A measurement of a live model.

    Attributes:
        name: "generalised", "head" or "lm".
        data: names of what it measures on.
        digest: of the data and of all that decides the number but the model.
    """

    @property
    def name(self) -> str: ...

    @property
    def data(self) -> tuple[str, ...]: ...

    @property
    def digest(self) -> str: ...

    def measure(self, model: Any, place: Place) -> list[Score]:
        """Score a model that a place was poured into.

        Raises:
            StoreError: something is not finite.
        """


class OnTask(msgspec.Struct, frozen=True, eq=False):
    """A metric of labelled texts that depends on nothing but them and the dtype.

    Attributes:
        encoded: the task.
        dtype: of the forward pass.
    """

    name: ClassVar[str]

    encoded: EncodedTask
    dtype: str = "float32"

    @property
    def data(self) -> tuple[str, ...]:
        """The task's name."""
        return (self.encoded.task.name,)

    @property
    def digest(self) -> str:
        """Of the texts, the labels, the tokens and the dtype."""
        return digest_of(self.name, self.encoded, self.dtype)


class Generalised(OnTask, frozen=True, eq=False):
    """Loss of a new linear head on the frozen encoder (`models.probe`)."""

    name: ClassVar[str] = "generalised"

    def measure(self, model: Any, place: Place) -> list[Score]:
        """Fit a head on the training rows, score it on the test rows."""
        found = probe(model, self.encoded, pooling=pooling_of(model), dtype=self.dtype)
        note = "" if found.converged else "a head was not fitted to convergence"
        rows = {"losses": found.losses.astype(np.float32), "hits": found.correct.astype(np.float32)}
        return [Score(
            data=self.data[0], loss=found.loss, accuracy=found.accuracy, n=len(found.losses), note=note, **rows
        )]  # fmt: skip


class AsItStands(OnTask, frozen=True, eq=False):
    """Next-token loss of a language model on the test part's texts, without any training."""

    name: ClassVar[str] = "as it stands"

    def measure(self, model: Any, place: Place) -> list[Score]:
        """Score the texts."""
        table = outcomes(model, self.encoded.test, dtype=self.dtype)
        loss, accuracy = summary(table)
        return [Score(data=self.data[0], loss=loss, accuracy=accuracy, n=int(table["count"].sum()))]


class OwnHeads(msgspec.Struct, frozen=True, eq=False):
    """Loss of the members' own heads, mixed as the members are: a classifier as it stands.

    Attributes:
        encoded: the task.
        heads: member → weight [classes, width] and bias [classes].
        pooling: that the members were trained with.
        dtype: of the forward pass.
    """

    encoded: EncodedTask
    heads: Mapping[str, tuple[Float32[ndarray, "classes width"], Float32[ndarray, " classes"]]]
    pooling: Pooling
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """ "head"."""
        return "head"

    @property
    def data(self) -> tuple[str, ...]:
        """The task's name."""
        return (self.encoded.task.name,)

    @property
    def digest(self) -> str:
        """Of the texts, the labels, the tokens, the dtype and the heads."""
        heads = [part.tobytes() for name in sorted(self.heads) for part in self.heads[name]]
        return sha256(digest_of(self.name, self.encoded, self.dtype).encode() + b"".join(heads)).hexdigest()

    def measure(self, model: Any, place: Place) -> list[Score]:
        """Score the mixed head on the test rows."""
        members, shares = place.point.members, place.point.coefficients
        if isinstance(shares, dict) or any(member not in self.heads for member in members):
            raise MismatchError(
                f"{place.name}: its members have no heads to mix", "measure the generalised loss"
            )
        weight, bias = (
            sum(
                float(c) * self.heads[m][part].astype(np.float64)
                for m, c in zip(members, shares, strict=True)
            )
            for part in (0, 1)
        )
        x = features(model, self.encoded.test, pooling=self.pooling, dtype=self.dtype).astype(np.float64)
        logits = x @ np.asarray(weight).T + bias
        logits -= logits.max(axis=1, keepdims=True)
        chances = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        y = self.encoded.test.labels
        losses = -chances[np.arange(len(y)), y]
        accuracy = float((chances.argmax(axis=1) == y).mean())
        return [Score(
            data=self.data[0], loss=float(losses.mean()), accuracy=accuracy, n=len(y), losses=losses.astype(np.float32)
        )]  # fmt: skip


class LmLoss(msgspec.Struct, frozen=True, eq=False):
    """Next-token loss of a causal LM on every domain of a token stream.

    Attributes:
        stream: held-out text.
    """

    stream: TokenStream

    @property
    def name(self) -> str:
        """ "lm"."""
        return "lm"

    @property
    def data(self) -> tuple[str, ...]:
        """The stream's domains."""
        return self.stream.domains

    @property
    def digest(self) -> str:
        """Of the stream."""
        return sha256(f"lm {self.stream.digest}".encode()).hexdigest()

    def measure(self, model: Any, place: Place) -> list[Score]:
        """Score all domains in one pass; losses are means of documents."""
        found = lm_scores(model, self.stream)
        scores = []
        for index, domain in enumerate(found.domains):
            mine = np.flatnonzero((found.domain == index) & (found.n_tokens > 0))
            n = int(found.n_tokens[mine].sum())
            scores.append(Score(
                data=domain, loss=float(found.loss[mine].sum() / n), accuracy=float(found.correct[mine].sum() / n),
                n=n, losses=(found.loss[mine] / found.n_tokens[mine]).astype(np.float32),
                hits=(found.correct[mine] / found.n_tokens[mine]).astype(np.float32),
                weights=found.n_tokens[mine].astype(np.float32),
            ))  # fmt: skip
        return scores


def measured(metric: Metric, model: Any, place: Place) -> list[Score]:
    """Score a model; where something is not finite the loss is infinite and the note says what."""
    try:
        scores = metric.measure(model, place)
    except StoreError as error:
        return lost(metric, error.message)
    return [
        score
        if math.isfinite(score.loss)
        else Score(
            data=score.data, loss=math.inf, accuracy=math.nan, n=score.n, note="the loss is not finite"
        )
        for score in scores
    ]


def lost(metric: Metric, why: str) -> list[Score]:
    """Return scores of a model that gives no finite loss."""
    return [Score(data=name, loss=math.inf, accuracy=math.nan, n=0, note=why) for name in metric.data]


def own_heads(folders: Mapping[str, Path], encoded: EncodedTask, dtype: str = "float32") -> OwnHeads:
    """Read the heads that `heredity finetune` left beside the members.

    Raises:
        CheckpointError: a member has no head.
        MismatchError: heads of other labels than the task's.
    """
    from safetensors.torch import load_file

    heads, poolings = {}, []
    for member, folder in folders.items():
        if not (folder / HEAD).is_file():
            raise CheckpointError(f"{folder}: no {HEAD}", "measure the generalised loss: it needs no head")
        record, _ = read_finetuned(folder)
        if tuple(record["labels"]) != encoded.task.labels:
            raise MismatchError(
                f"{folder / RECORD}: {len(record['labels'])} labels, not those of {encoded.task.name}",
                "mix heads of one data set only",
            )
        loaded: dict[str, torch.Tensor] = load_file(folder / HEAD)
        heads[member] = (loaded["weight"].numpy(), loaded["bias"].numpy())
        poolings.append(record["pooling"])
    if len(dict.fromkeys(poolings)) > 1:
        raise MismatchError("members pool their tokens in different ways", "measure the generalised loss")
    return OwnHeads(encoded, heads, poolings[0], dtype)


def digest_of(name: str, encoded: EncodedTask, dtype: str) -> str:
    """Return sha256 of a metric's name, its data as tokens, and the dtype it is run in."""
    whole = sha256(f"{name} {dtype} {encoded.max_tokens} {encoded.task.digest}".encode())
    for part in (encoded.train, encoded.validation, encoded.test):
        for row in part.ids:
            whole.update(row.tobytes() + b"\n")
    return whole.hexdigest()
