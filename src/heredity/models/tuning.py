"""How a model is fine-tuned, and what that gives beside the weights: plain values, without torch.

Source: Ben Zaken et al. 2022 (BitFit); Hu et al. 2021 (LoRA); Swayamdipta et al. 2020, arXiv 2009.10795
(confidence and variability of every training example over the epochs).
"""

from typing import Annotated, Literal

import msgspec
import polars as pl
from msgspec import Meta

Method = Literal["full", "bitfit", "head", "lora"]


class FineTuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is fine-tuned.

    Attributes:
        method: full; bitfit (biases and the head); head; lora (through the extra `peft`).
        learning_rate: peak: linear warm-up, then linear down to 0.
        head_learning_rate: of a new head; None takes `learning_rate`.
        epochs: passes over the training rows, at most.
        batch: rows of a step.
        max_tokens: longer texts are cut, and counted.
        weight_decay: decoupled (AdamW), on matrices only.
        warmup: share of the steps.
        patience: stop after so many epochs without a lower validation loss, and go back to the lowest; 0 never stops.
        layers: keep the first so many layers; None keeps all.
        freeze_embeddings: train no embedding.
        rank: of LoRA's factors; α = 2·rank.
    """

    method: Method = "full"
    learning_rate: Annotated[float, Meta(gt=0)] = 5e-5
    head_learning_rate: Annotated[float, Meta(gt=0)] | None = None
    epochs: Annotated[int, Meta(ge=1)] = 3
    batch: Annotated[int, Meta(ge=1)] = 32
    max_tokens: Annotated[int, Meta(ge=4)] = 128
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    warmup: Annotated[float, Meta(ge=0, le=1)] = 0.06
    patience: Annotated[int, Meta(ge=0)] = 0
    layers: Annotated[int, Meta(ge=1)] | None = None
    freeze_embeddings: bool = False
    rank: Annotated[int, Meta(ge=1)] = 8


class Trained(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What training gave, beside the weights.

    Attributes:
        scores: loss and accuracy on validation and test, by name.
        history: a row for each epoch.
        cartography: a row for each training example: confidence, variability, correctness.
        predictions: a row for each test example: loss, correct.
        validation: the same of each validation example.
        cost: steps, examples, tokens, seconds.
        notes: what a reader must know: truncation, parts held out.
    """

    scores: dict[str, float]
    history: pl.DataFrame
    cartography: pl.DataFrame
    predictions: pl.DataFrame
    validation: pl.DataFrame
    cost: dict[str, float]
    notes: tuple[str, ...]
