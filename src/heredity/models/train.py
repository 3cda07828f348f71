"""Train a causal LM over a token stream: seeded, resumable to identical weights, at a fixed number of threads."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from heredity.atomic import replacing_folder, write_text
from heredity.corpora.tokens import TokenStream
from heredity.errors import ConfigError, StoreError
from heredity.models.load import quiet_transformers
from heredity.seeds import generator, key

SAVE_EVERY_SECONDS = 20.0


class LmTraining(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a language model is trained.

    Attributes:
        learning_rate: peak of the schedule.
        epochs: passes over the stream; fractions cut the last pass short.
        batch_blocks: contexts per step.
        warmup_steps: linear warm-up from 0; afterwards a cosine down to 0.
        weight_decay: decoupled (AdamW), on matrices only.
        beta1: Adam's first moment decay.
        beta2: Adam's second moment decay.
        clip: largest gradient norm.
    """

    learning_rate: float
    epochs: float = 1.0
    batch_blocks: int = 32
    warmup_steps: int = 0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0

    def steps(self, n_blocks: int) -> int:
        """Number of optimiser steps over a stream of `n_blocks` contexts."""
        return int(self.epochs * n_blocks) // self.batch_blocks

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0: warm-up, then cosine to 0 at the last step."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def train_lm(
    model: nn.Module,
    stream: TokenStream,
    work: Path,
    *,
    config: LmTraining,
    seed: int,
    label: str,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    progress: bool = False,
    log_every: int = 10,
) -> list[dict[str, float]]:
    """Train in place and return the history: one row per `log_every` steps (step, tokens, loss, learning_rate).

    Args:
        model: a causal LM; its own device and dtype are used.
        stream: training tokens; contexts are visited in a seeded order, anew each epoch.
        work: folder for the state from which a killed run goes on; removed by the caller when the model is saved.
        config: the schedule.
        seed: of the order of contexts.
        label: name in messages and on the progress bar.
        on_step: called with each history row as it is made; after a resume, first with the rows already made.
        progress: draw a progress bar on stderr.
        log_every: steps per history row; the row's loss is the mean over them, nats per token.

    Raises:
        ConfigError: the stream is too short for one step, or `work` belongs to another training.
        StoreError: the loss stopped being finite.
    """
    blocks = stream.blocks()
    steps = config.steps(len(blocks))
    if steps < 1:
        raise ConfigError(
            f"{label}: {len(blocks)} contexts make no step of {config.batch_blocks}",
            "use more text, a shorter context, or a smaller batch",
        )
    device = next(model.parameters()).device
    optimiser = _optimiser(model, config)
    identity = {
        "label": label, "stream": stream.digest, "seed": seed, "steps": steps,
        "config": msgspec.to_builtins(config), "threads": torch.get_num_threads(),
    }  # fmt: skip
    start, history = _resume(model, optimiser, work, identity)
    for row in history:
        if on_step:
            on_step(row)
    plain_head = _has_plain_head(model.eval(), torch.from_numpy(blocks[:1].astype(np.int64)).to(device))
    model.train()
    saved = time.monotonic()
    sums: list[float] = []
    bar = tqdm(total=steps, initial=start, desc=label, unit="step", disable=not progress, leave=False)
    for step in range(start, steps):
        rate = config.rate(step, steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        tokens = torch.from_numpy(
            blocks[_rows(step, config.batch_blocks, len(blocks), seed)].astype(np.int64)
        ).to(device)
        loss = _step(model, optimiser, tokens, config.clip, plain_head)
        if not math.isfinite(loss):
            raise StoreError(f"{label}: the loss is not finite at step {step}", "lower the learning rate")
        sums.append(loss)
        bar.update()
        if (step + 1) % log_every == 0 or step + 1 == steps:
            row = {
                "step": step + 1, "tokens": (step + 1) * config.batch_blocks * stream.context,
                "loss": float(np.mean(sums)), "learning_rate": rate,
            }  # fmt: skip
            sums = []
            history.append(row)
            bar.set_postfix(loss=f"{row['loss']:.3f}")
            if on_step:
                on_step(row)
            if time.monotonic() - saved > SAVE_EVERY_SECONDS and step + 1 < steps:
                _save(model, optimiser, work, identity, step + 1, history)
                saved = time.monotonic()
    bar.close()
    model.eval()
    return history


def save_model(model: nn.Module, tokenizer_folder: Path, out: Path) -> None:
    """Write a Hugging Face folder with the model and the tokenizer beside it, whole or not at all."""
    with quiet_transformers(), replacing_folder(out) as folder:
        model.save_pretrained(folder)  # type: ignore[operator]
        for file in sorted(tokenizer_folder.glob("*.json")):
            (folder / file.name).write_bytes(file.read_bytes())


def _rows(step: int, batch: int, n_blocks: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Contexts of one step: the epochs' permutations laid end to end, cut into batches."""
    positions = np.arange(step * batch, (step + 1) * batch)
    rows = np.empty(batch, np.int64)
    for epoch in range(int(positions[0] // n_blocks), int(positions[-1] // n_blocks) + 1):
        inside = positions // n_blocks == epoch
        rows[inside] = _order(seed, epoch, n_blocks)[positions[inside] % n_blocks]
    return rows


_orders: dict[tuple[int, int, int], np.ndarray[Any, np.dtype[np.int64]]] = {}


def _order(seed: int, epoch: int, n_blocks: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    name = (seed, epoch, n_blocks)
    if name not in _orders:
        _orders.clear() if len(_orders) > 4 else None
        _orders[name] = generator(seed, "order of contexts", epoch).permutation(n_blocks)
    return _orders[name]


def _optimiser(model: nn.Module, config: LmTraining) -> torch.optim.AdamW:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=True,
    )


def _step(
    model: nn.Module, optimiser: torch.optim.Optimizer, tokens: torch.Tensor, clip: float, plain_head: bool
) -> float:
    optimiser.zero_grad(set_to_none=True)
    if plain_head:
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]  # type: ignore[operator]
        weight = model.get_output_embeddings().weight  # type: ignore[operator]
        loss = _HeadLoss.apply(hidden.reshape(-1, hidden.shape[-1]), weight, tokens[:, 1:].reshape(-1))
    else:
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
        loss = nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(), tokens[:, 1:].reshape(-1)
        )
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
    return float(loss.detach())


@torch.no_grad()
def _has_plain_head(model: nn.Module, tokens: torch.Tensor) -> bool:
    """Whether the logits are nothing but the last hidden state times the head's weight (no bias, scale or cap)."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    if type(head) is not nn.Linear or head.bias is not None or tokens.device.type != "cpu":
        return False
    hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    logits = model(input_ids=tokens, use_cache=False).logits
    return torch.equal(logits, head(hidden))


class _HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of a linear head, in chunks of rows: the logits of a whole batch are never in memory.

    The gradient is made in the forward pass, in place of the logits, so that each chunk is touched while it is in
    the cache: on a CPU the large, ever newly mapped logits cost more than the arithmetic.
    """

    CHUNK_ELEMENTS = 1 << 21

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        rows = max(1, _HeadLoss.CHUNK_ELEMENTS // weight.shape[0])
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(hidden), rows):
            part, wanted = hidden[start : start + rows], target[start : start + rows, None]
            logits = part @ weight.T
            logits -= logits.amax(1, keepdim=True)
            picked = logits.gather(1, wanted)
            logits.exp_()
            sums = logits.sum(1, keepdim=True)
            total += (sums.log() - picked).double().sum()
            logits /= sums
            logits.scatter_add_(1, wanted, torch.full_like(picked, -1))
            torch.mm(logits, weight, out=d_hidden[start : start + rows])
            d_weight.addmm_(logits.T, part)
        ctx.save_for_backward(d_hidden.div_(len(hidden)), d_weight.div_(len(hidden)))
        return (total / len(hidden)).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * grad, d_weight * grad, None


def _save(
    model: nn.Module, optimiser: torch.optim.Optimizer, work: Path, identity: dict[str, Any], step: int,
    history: list[dict[str, float]],
) -> None:  # fmt: skip
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach().contiguous()
        for moment, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{moment}.{name}"] = value.detach().contiguous()
    with replacing_folder(work) as folder:
        save_file(tensors, folder / "state.safetensors")
        write_text(
            folder / "state.json", json.dumps({"identity": identity, "step": step, "history": history})
        )


def _resume(
    model: nn.Module, optimiser: torch.optim.Optimizer, work: Path, identity: dict[str, Any]
) -> tuple[int, list[dict[str, float]]]:
    if not (work / "state.json").exists():
        return 0, []
    state = json.loads((work / "state.json").read_text())
    if state["identity"] != identity:
        raise ConfigError(f"{work}: holds the state of another training", "remove the folder to start anew")
    tensors = load_file(work / "state.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"weight.{name}"])
            moments = {
                m: tensors[f"{m}.{name}"]
                for m in ("step", "exp_avg", "exp_avg_sq")
                if f"{m}.{name}" in tensors
            }
            if moments:
                optimiser.state[parameter] = {
                    m: v.clone() if m == "step" else v.to(parameter.device) for m, v in moments.items()
                }
    return int(state["step"]), list(state["history"])


def stage_seed(seed: int, *names: object) -> int:
    """A seed for torch, which takes 63 bits, of one purpose."""
    return key(seed, *names) >> 1
