"""Gradient descent on a task: keyed order, early stopping, and what every example was like to learn."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl
from tqdm import tqdm

from heredity.anatomy import kind_of, layer_of
from heredity.errors import ConfigError, StoreError
from heredity.models.batches import Encoded, EncodedTask, in_order, shuffled
from heredity.models.classifier import Classifier
from heredity.models.evaluate import token_losses
from heredity.models.load import dtype_of, torch
from heredity.models.tuning import FineTuning, Trained
from heredity.seeds import generator, key

nn = torch.nn
_CLIP = 1.0


def fit(
    model: Any,
    data: EncodedTask,
    config: FineTuning,
    *,
    seed: int,
    dtype: str = "float32",
    label: str = "",
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Train in place: a `Classifier` on labels, a causal LM on next tokens.

    Args:
        model: on its device; its weights stay in their dtype.
        data: what to learn.
        config: the settings.
        seed: of the order of the data and the dropout.
        dtype: of the forward pass: "float32", "bfloat16" or "float16".
        label: name in messages and on the progress bar.
        progress: draw a progress bar on stderr.
        say: takes a line after every epoch.

    Raises:
        ConfigError: the method has nothing to train in this model.
        StoreError: the loss stopped being finite.
    """
    start = (time.perf_counter(), time.process_time())
    device = next(model.parameters()).device
    optimiser = _optimiser(model, config)
    batches = -(-len(data.train) // config.batch)
    total = batches * config.epochs
    cartography = _Cartography(len(data.train))
    history: list[dict[str, float]] = []
    best, kept, stale, tokens = math.inf, None, 0, 0
    checked = pl.DataFrame()
    bar = tqdm(total=total, desc=label, unit="step", disable=not progress, leave=False)
    with _seeded(key(seed, "dropout") >> 1, device):
        for epoch in range(config.epochs):
            _train_mode(model, config)
            rng = generator(seed, "order of examples", epoch)
            sums = np.zeros(2)
            for step, rows in enumerate(
                shuffled(data.train.lengths, config.batch, rng), start=epoch * batches
            ):
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * _schedule(step, total, config.warmup)
                optimiser.zero_grad(set_to_none=True)
                nll, count, chance, hits = _outcome(model, data.train, rows, device, dtype)
                loss = nll.sum() / count.sum()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
                optimiser.step()
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise StoreError(
                        f"{label}: the loss is not finite at step {step}", "lower the learning rate"
                    )
                cartography.add(rows, chance, hits / count.clamp(min=1))
                sums += (value * len(rows), len(rows))
                tokens += int(sum(len(data.train.ids[row]) for row in rows))
                bar.update()
            cartography.end_epoch()
            checked = outcomes(model, data.validation, dtype=dtype)
            measured = summary(checked)
            history.append({
                "epoch": epoch + 1, "steps": (epoch + 1) * batches, "train_loss": float(sums[0] / sums[1]),
                "validation_loss": measured[0], "validation_accuracy": measured[1],
            })  # fmt: skip
            say(
                f"{label}: epoch {epoch + 1}: loss {measured[0]:.4f}, accuracy {measured[1]:.3f} on validation"
            )
            if config.patience:
                stale = 0 if measured[0] < best else stale + 1
                if measured[0] < best:
                    best, kept = measured[0], _copy(model)
                if stale >= config.patience:
                    break
    bar.close()
    if kept is not None:
        _restore(model, kept)
        checked = outcomes(model, data.validation, dtype=dtype)
    model.eval()
    cost = {
        "steps": history[-1]["steps"], "examples": len(history) * len(data.train), "tokens": tokens,
        "wall_seconds": round(time.perf_counter() - start[0], 3),
        "cpu_seconds": round(time.process_time() - start[1], 3), "threads": torch.get_num_threads(),
    }  # fmt: skip
    predictions = outcomes(model, data.test, dtype=dtype)
    validation = summary(checked)
    loss_test, accuracy_test = summary(predictions)
    scores = {
        "validation_loss": validation[0], "validation_accuracy": validation[1], "test_loss": loss_test,
        "test_accuracy": accuracy_test,
    }  # fmt: skip
    return Trained(
        scores=scores, history=pl.DataFrame(history), cartography=cartography.table(data.task.train.places),
        predictions=predictions, validation=checked, cost=cost, notes=data.notes,
    )  # fmt: skip


@torch.no_grad()
def outcomes(model: Any, data: Encoded, *, batch: int = 64, dtype: str = "float32") -> pl.DataFrame:
    """Measure every example: columns example, loss (nats, summed over its tokens), correct, count.

    A classifier has one count for an example; a language model one for each next token.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    found = np.zeros((len(data), 3))
    for rows in in_order(data.lengths, batch):
        nll, count, _, hits = _outcome(model, data, rows, device, dtype)
        found[rows] = torch.stack([nll, hits, count], 1).double().cpu().numpy()
    model.train(was_training)
    return pl.DataFrame({
        "example": np.arange(len(data)), "loss": found[:, 0], "correct": found[:, 1],
        "count": found[:, 2].astype(np.int64),
    })  # fmt: skip


def summary(outcomes: pl.DataFrame) -> tuple[float, float]:
    """Return mean loss and accuracy over all counts."""
    loss, correct, count = (float(outcomes[name].sum()) for name in ("loss", "correct", "count"))
    return loss / count, correct / count


def trainable(model: Any, config: FineTuning) -> list[str]:
    """Freeze what a method does not train; return the names of what it does.

    Raises:
        ConfigError: nothing is left to train.
    """
    headed = isinstance(model, Classifier)
    chosen: list[str] = []
    tied_head = None if headed else model.get_output_embeddings()
    for name, parameter in model.named_parameters():
        own_head = (
            name.startswith("head.") if headed else tied_head is not None and parameter is tied_head.weight
        )
        if config.method == "lora":
            train = parameter.requires_grad
        elif config.method == "bitfit":
            train = name.endswith("bias") or (headed and own_head)
        elif config.method == "head":
            train = own_head
        else:
            train = True
        if config.freeze_embeddings and not own_head and _is_embedding(name):
            train = False
        parameter.requires_grad_(train)
        if train:
            chosen.append(name)
    if config.method == "head" and not headed and any(map(_is_embedding, chosen)):
        raise ConfigError(
            "the head of this model is its embedding (tied): it cannot be trained alone", "use full"
        )
    if not any(not name.startswith("head.") for name in chosen) and config.method != "head":
        raise ConfigError(
            f"{config.method} finds nothing to train: this model has no biases", "use full or lora"
        )
    return chosen


def _is_embedding(name: str) -> bool:
    return layer_of(name) is None and (kind_of(name) == "embedding" or ".embeddings." in f".{name}")


def _optimiser(model: Any, config: FineTuning) -> torch.optim.AdamW:
    names = set(trainable(model, config))
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if name in names:
            groups.setdefault((name.startswith("head."), parameter.dim() >= 2), []).append(parameter)
    head_rate = config.head_learning_rate or config.learning_rate
    return torch.optim.AdamW([
        {
            "params": parameters, "weight_decay": config.weight_decay if matrix else 0.0,
            "lr": 0.0, "peak": head_rate if head else config.learning_rate,
        }
        for (head, matrix), parameters in groups.items()
    ], fused=True)  # fmt: skip


def _schedule(step: int, total: int, warmup: float) -> float:
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return (total - step) / max(1, total - rising)


def _outcome(model: Any, data: Encoded, rows: list[int], device: torch.device, dtype: str) -> tuple[Any, ...]:
    """Return loss, count, probability of the truth and hits of each row of a batch."""
    batch = data.batch(rows, device)
    with torch.autocast(device.type, dtype=dtype_of(dtype), enabled=dtype != "float32"):
        if isinstance(model, Classifier):
            logits = model(batch).float()
            target = torch.from_numpy(data.labels[rows]).to(device)
            mask = torch.ones_like(target, dtype=torch.float32)
        else:
            batch.pop("token_type_ids", None)
            logits = model(**batch, use_cache=False).logits[:, :-1].float()
            target = batch["input_ids"][:, 1:]
            mask = batch["attention_mask"][:, 1:].float()
    nll = token_losses(logits, target) * mask
    hits = (logits.detach().argmax(-1) == target).float() * mask
    if nll.dim() == 1:
        return nll, mask, (-nll.detach()).exp(), hits
    count = mask.sum(1)
    chance = ((-nll.detach()).exp() * mask).sum(1) / count.clamp(min=1)
    return nll.sum(1), count, chance, hits.sum(1)


def _train_mode(model: Any, config: FineTuning) -> None:
    model.train()
    if config.method == "head" and isinstance(model, Classifier):
        model.encoder.eval()  # it is a fixed function of the text


def _copy(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _restore(model: Any, kept: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block with torch's own draws (dropout) seeded, and give the caller's state back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class _Cartography:
    """Probability of the truth of every training example in each epoch, as it was trained on."""

    def __init__(self, n: int) -> None:
        self._sums = np.zeros((3, n))
        self._epochs = 0

    def add(self, rows: list[int], chance: torch.Tensor, hits: torch.Tensor) -> None:
        """Count one batch."""
        p = chance.double().cpu().numpy()
        self._sums[:, rows] += np.stack([p, p * p, hits.double().cpu().numpy()])

    def end_epoch(self) -> None:
        """Count an epoch: every example was seen once more."""
        self._epochs += 1

    def table(self, places: tuple[str, ...]) -> pl.DataFrame:
        """Columns example, place, confidence (mean), variability (standard deviation), correctness, epochs."""
        mean, square, hits = self._sums / max(1, self._epochs)
        return pl.DataFrame({
            "example": np.arange(len(mean)), "place": list(places), "confidence": mean,
            "variability": np.sqrt(np.maximum(square - mean**2, 0.0)), "correctness": hits,
            "epochs": np.full(len(mean), self._epochs),
        })  # fmt: skip
