"""Labelled texts as token ids, cut to a length that is stated, in batches of texts of like length."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray
from torch import nn

from heredity.corpora.labelled import Examples, LabelledTask
from heredity.errors import ConfigError

_POOL = 16  # batches that are sorted by length together: like lengths, yet a random order


class Encoded(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Token ids of examples.

    Attributes:
        ids: of each example.
        types: segment of each token, or None if the tokenizer has none.
        labels: class of each example; empty without labels.
        padding: id that fills up a batch; it is masked.
        truncated: how many examples were longer than allowed.
    """

    ids: tuple[Int64[ndarray, " _"], ...]
    types: tuple[Int64[ndarray, " _"], ...] | None
    labels: Int64[ndarray, " n"]
    padding: int
    truncated: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Int64[ndarray, " n"]:
        """Number of tokens of each example."""
        return np.array([len(row) for row in self.ids], np.int64)

    def batch(self, rows: Sequence[int], device: torch.device) -> dict[str, torch.Tensor]:
        """Return input_ids, attention_mask and, if there are segments, token_type_ids, int64 [rows, longest]."""
        width = max(len(self.ids[row]) for row in rows)
        ids = np.full((len(rows), width), self.padding, np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for place, row in enumerate(rows):
            length = len(self.ids[row])
            ids[place, :length], mask[place, :length] = self.ids[row], 1
            if self.types is not None:
                types[place, :length] = self.types[row]
        arrays = {"input_ids": ids, "attention_mask": mask}
        if self.types is not None:
            arrays["token_type_ids"] = types
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


class EncodedTask(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """The three parts of a task as token ids.

    Attributes:
        task: what was encoded.
        train: rows to fit on.
        validation: rows to choose on.
        test: rows to report on.
        max_tokens: longest example.
    """

    task: LabelledTask
    train: Encoded
    validation: Encoded
    test: Encoded
    max_tokens: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the data, truncation counted."""
        cut = [
            f"{part}: {encoded.truncated} of {len(encoded)} texts were cut to {self.max_tokens} tokens"
            for part, encoded in (("train", self.train), ("validation", self.validation), ("test", self.test))
            if encoded.truncated
        ]
        return (*self.task.notes, *cut)


def encode_task(
    task: LabelledTask, tokenizer: Any, *, max_tokens: int, context: int | None = None
) -> EncodedTask:
    """Tokenise all parts of a task.

    Args:
        task: texts.
        tokenizer: of transformers.
        max_tokens: longer texts are cut, the longer one of a pair first; how many is counted.
        context: most tokens that the model takes.

    Raises:
        ConfigError: `max_tokens` is more than the model takes, or leaves no room for a text.
    """
    if context is not None and max_tokens > context:
        raise ConfigError(
            f"max_tokens = {max_tokens} is more than the model's {context}",
            f"set max_tokens to {context} or less",
        )
    special = tokenizer.num_special_tokens_to_add(pair=task.train.pairs is not None)
    if max_tokens < special + 2:
        raise ConfigError(
            f"max_tokens = {max_tokens} leaves no room for a text", f"set it above {special + 2}"
        )
    parts = {
        part: encode(getattr(task, part), tokenizer, max_tokens=max_tokens)
        for part in ("train", "validation", "test")
    }  # fmt: skip
    return EncodedTask(task=task, max_tokens=max_tokens, **parts)


def encode(examples: Examples, tokenizer: Any, *, max_tokens: int) -> Encoded:
    """Tokenise examples, cut to `max_tokens`; the two texts of a pair are joined as the tokenizer does it.

    A tokenizer without a separator (most decoders') gets the pair as two lines of one text.
    """
    texts, pairs = list(examples.texts), examples.pairs
    if pairs is not None and not tokenizer.num_special_tokens_to_add(pair=True):
        texts, pairs = [f"{a}\n{b}" for a, b in zip(texts, pairs, strict=True)], None
    limit = {"truncation": True, "max_length": max_tokens}
    found = tokenizer(texts, None if pairs is None else list(pairs), **limit, return_attention_mask=False)
    types = found.get("token_type_ids")
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    rows = [
        np.array(row or [padding or 0], np.int64) for row in found["input_ids"]
    ]  # an empty text is one token
    return Encoded(
        ids=tuple(rows),
        types=None if types is None else tuple(np.array(row or [0], np.int64) for row in types),
        labels=examples.labels,
        padding=padding or 0,
        truncated=sum(bool(encoding.overflowing) for encoding in found.encodings),
    )


def context_of(model: nn.Module) -> int | None:
    """Return the most tokens a model takes, or None if its configuration does not say."""
    config: Any = model.config
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None:
        return None
    # RoBERTa's positions start after the padding token's
    offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return int(limit) - offset


def in_order(lengths: Int64[ndarray, " n"], size: int) -> list[list[int]]:
    """Cut all rows into batches, shortest first: for measuring, where the order does not matter."""
    order = np.argsort(lengths, kind="stable").tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]


def shuffled(lengths: Int64[ndarray, " n"], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Cut a random order into batches of like length, in random order: for training."""
    order = rng.permutation(len(lengths))
    batches: list[list[int]] = []
    for start in range(0, len(order), size * _POOL):
        pool = order[start : start + size * _POOL]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[low : low + size].tolist() for low in range(0, len(pool), size)]
    return [batches[i] for i in rng.permutation(len(batches))]
