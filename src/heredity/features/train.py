"""Train a sparse autoencoder of any variant on stored activations: one loop, seeded, resumable.

Inputs are scaled to a mean squared norm of d_in; the scale is folded back into the biases of the SAE
returned. Every draw is keyed by (seed, purpose), so a run resumed from a checkpoint ends with the same bits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import torch
from jaxtyping import Int64
from msgspec import Meta, Struct
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from heredity.atomic import replacing
from heredity.errors import MismatchError, StoreError
from heredity.features.backward import Parameters, add_gradients, streams
from heredity.features.initialise import check_finite, first_parameters, origin
from heredity.features.joint import Activations
from heredity.features.optimise import Adam, descend
from heredity.features.product import by_rows
from heredity.features.sae._sae import SAE
from heredity.features.sae._variant import NO_EXTRA, Extended, Variant
from heredity.features.sae.topk import TopK
from heredity.features.selection import fastest_dtype
from heredity.seeds import generator

Metrics = dict[str, float | int]


class Training(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long and how fast to train.

    Attributes:
        tokens: activations seen in all; more than the store holds means several epochs.
        batch_tokens: activations per step.
        rate: Adam's learning rate at its height.
        warmup: share of the steps in which the rate, and an L1 penalty, rise from 0.
        decay: share of the steps, at the end, in which the rate falls to 0.
        beta1, beta2: Adam's decay rates.
        dead_after_tokens: a latent that has not fired for so many tokens counts as dead and is revived.
        resample_every_tokens: where dead latents are resampled, how often; none in the last third.
        checkpoint_every: steps between checkpoints.
        dtype: float32; bfloat16, in which a TopK's latents are nominated on the CPU (chosen and valued in float32:
            same latents, other speed); or auto, the faster of the two in a short trial, recorded when it is made.
    """

    tokens: Annotated[int, Meta(ge=1)]
    batch_tokens: Annotated[int, Meta(ge=1)] = 2048
    rate: Annotated[float, Meta(gt=0)] = 1e-3
    warmup: Annotated[float, Meta(ge=0, le=1)] = 0.02
    decay: Annotated[float, Meta(ge=0, le=1)] = 0.3
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    dead_after_tokens: Annotated[int, Meta(ge=1)] = 100_000
    resample_every_tokens: Annotated[int, Meta(ge=1)] = 500_000
    checkpoint_every: Annotated[int, Meta(ge=1)] = 500
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"

    @property
    def steps(self) -> int:
        """Steps in all."""
        return -(-self.tokens // self.batch_tokens)

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: up, flat, down to 0, all in straight lines."""
        up = min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))
        down = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.rate * up * down


class _State(Struct, eq=False):
    p: Parameters
    adam: Adam
    since: Int64[ndarray, " d_sae"]
    scale: float
    mean_l0: float
    step: int = 0
    gradients: Parameters | None = None  # all of them, where they are needed at once


def train(
    variant: Variant,
    store: Activations,
    training: Training,
    *,
    seed: int,
    start: SAE | None = None,
    checkpoint: Path | None = None,
    callback: Callable[[Metrics], None] | None = None,
    device: str = "cpu",
    progress: bool | None = None,
) -> SAE:
    """Train an SAE.

    Args:
        variant: which kind, e.g. `TopK(d_sae=4096, k=32)`.
        store: activations to learn from: one member's, or several members' for a crosscoder.
        training: how long and how fast.
        seed: of the initial weights and of the order of the tokens.
        start: an SAE to begin with, such as the parent's; latents keep their index. None: random weights.
        checkpoint: file to save to and to resume from; removed by the caller when the SAE is saved.
        callback: called after every step with step, tokens, loss, fvu (of the batch), l0, dead, rate.
        device: where to compute.
        progress: show a bar; by default only on a terminal.

    Raises:
        MismatchError: the checkpoint belongs to other settings, or `start` is of another kind or shape.
        StoreError: an activation is not finite (member, step and shard are named), or the loss no longer is; or
            the store is smaller than one batch, or the checkpoint damaged.
    """
    if store.n_tokens < training.batch_tokens:  # a token would stand in one batch twice, and weigh double
        raise StoreError(
            f"SAE of {store.meta.member}, {store.meta.site}: {store.n_tokens:,} tokens are fewer than one batch of "
            f"{training.batch_tokens:,}",
            "lower batch_tokens, or harvest more text",
        )
    training = _settled(training, variant, store.d, checkpoint, device)
    settings = _record(variant, store, training, seed, start)
    state = _resume(checkpoint, settings, training, device)
    state = state or _start(variant, store, training, seed, start, device)
    order = _Order(store.n_tokens, seed)
    bar = tqdm(
        total=training.steps, initial=state.step, desc=f"SAE {store.meta.member} seed {seed}", unit="step",
        disable=None if progress is None else not progress, leave=False,
    )  # fmt: skip
    with bar:
        while state.step < training.steps:
            rows = order.rows(state.step * training.batch_tokens, training.batch_tokens)
            metrics = _step(variant, training, state, _inputs(store, rows, state.scale, device))
            if not np.isfinite(metrics["loss"]):
                check_finite(store, rows, store.take(rows), step=state.step)
                raise StoreError(
                    f"SAE of {store.meta.member}, {store.meta.site}: "
                    f"the loss is not finite at step {state.step}",
                    "lower the learning rate",
                )
            if variant.resampled:
                _resample(variant, training, state, store, seed)
            if callback:
                callback(metrics)
            bar.update()
            if checkpoint and state.step % training.checkpoint_every == 0 and state.step < training.steps:
                _save(checkpoint, state, settings)
    return _finished(variant, state, store, training, seed, start)


def _inputs(store: Activations, rows: Int64[ndarray, " n"], scale: float, device: str) -> torch.Tensor:
    return torch.from_numpy(store.take(rows)).to(device).mul_(scale)


def _step(variant: Variant, training: Training, state: _State, x: torch.Tensor) -> Metrics:
    warm = min(1.0, (state.step + 1) / max(1.0, training.warmup * training.steps))
    dead = state.since > training.dead_after_tokens
    dense = x.device.type != "cpu" or state.mean_l0 > _DENSE_SHARE * variant.d_sae
    rate = training.rate_at(state.step)
    plain = not isinstance(variant, Extended)
    if plain and streams(variant, x, dense):
        seen = descend(
            variant, state.p, x, state.adam, rate,
            penalty=variant.penalty * warm, dead=dead, dense=dense, dtype=training.dtype,
        )  # fmt: skip
    else:
        gradients = state.gradients = state.gradients or state.p.zeros()
        if isinstance(variant, Extended):
            progress = (state.step + 1) / training.steps
            seen = variant.add_gradients(state.p, x, gradients, progress=progress, dead=dead, dense=dense)
        else:
            seen = add_gradients(
                variant, state.p, x, gradients, penalty=variant.penalty * warm, dead=dead, dense=dense
            )
        state.adam.update(state.p, gradients, rate)
    state.since += len(x)
    state.since[seen.fired] = 0
    state.mean_l0 = seen.n_codes / len(x)
    state.step += 1
    spread = _spread(x)
    return {
        "step": state.step, "tokens": state.step * training.batch_tokens, "loss": seen.loss,
        "fvu": seen.squared_error / max(spread, 1e-30), "l0": state.mean_l0,
        "dead": int(dead.sum()), "rate": rate,
    }  # fmt: skip


def _spread(x: torch.Tensor) -> float:
    """Return Σ‖x − x̄‖²."""
    mean = x.mean(dim=0)
    return sum(float((part - mean).square().sum()) for part in x.split(_CHUNK))


_CHUNK = 1024

_DENSE_SHARE = 0.05
"""Above this share of latents firing, dense products are faster than gathering rows."""


def _resample(variant: Variant, training: Training, state: _State, store: Activations, seed: int) -> None:
    """Give dead latents the direction of badly explained tokens.  Source: Bricken et al. 2023, appendix."""
    every = max(1, training.resample_every_tokens // training.batch_tokens)
    if state.step % every or state.step > training.steps * 2 // 3:
        return
    dead = np.flatnonzero(state.since > training.dead_after_tokens)
    if not len(dead):
        return
    draw = generator(seed, "resample", state.step)
    p = state.p
    x = torch.from_numpy(store.take(draw.integers(0, store.n_tokens, 8192))).to(p.b_dec.device) * state.scale
    extra = variant.finish(p.extra, 1.0) if isinstance(variant, Extended) else NO_EXTRA
    parts = []
    for part in x.split(_CHUNK):  # the codes of all at once would be the largest matrix of the training
        codes = variant.activate_dense(by_rows(part - p.b_dec, p.encoder, p.b_enc), extra)
        parts.append((part - by_rows(codes, p.decoder.T, p.b_dec)).double())
    left = torch.cat(parts)
    chance = left.square().sum(dim=1).square().cpu().numpy()
    picked = draw.choice(len(x), size=len(dead), p=chance / chance.sum())
    rows = torch.nn.functional.normalize(left[torch.from_numpy(picked).to(x.device)], dim=1).float()
    alive = np.ones(len(p.b_enc), bool)
    alive[dead] = False
    size = p.encoder[torch.from_numpy(alive)].norm(dim=1).mean() if alive.any() else torch.tensor(1.0)
    where = torch.from_numpy(dead).to(x.device)
    p.decoder[where] = rows
    p.encoder[where] = rows * (0.2 * size)
    p.b_enc[where] = 0
    if isinstance(variant, Extended):
        p.extra[:, where] = variant.begin().to(x.device)[:, where]
    state.adam.forget(~alive)
    state.since[dead] = 0


class _Order:
    """Every epoch visits every token once, in an order keyed by (seed, epoch)."""

    def __init__(self, n_tokens: int, seed: int) -> None:
        self.n_tokens, self.seed = n_tokens, seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def rows(self, start: int, n: int) -> Int64[ndarray, " n"]:
        parts, at = [], start
        while at < start + n:
            epoch, offset = divmod(at, self.n_tokens)
            if epoch != self._epoch:
                self._permutation = generator(self.seed, "sae order", epoch).permutation(self.n_tokens)
                self._epoch = epoch
            part = self._permutation[offset : offset + start + n - at]
            parts.append(part)
            at += len(part)
        return np.concatenate(parts)


def _start(
    variant: Variant, store: Activations, training: Training, seed: int, start: SAE | None, device: str
) -> _State:
    p, scale = first_parameters(variant, store, seed, start)
    p = Parameters(*(getattr(p, name).to(device) for name in p.__struct_fields__))
    adam = Adam.start(p, training.beta1, training.beta2)
    firing = variant.k if isinstance(variant, TopK) else variant.d_sae  # of the others it is not known yet
    return _State(p, adam, np.zeros(variant.d_sae, np.int64), scale, float(firing))


def _finished(
    variant: Variant, state: _State, store: Activations, training: Training, seed: int, start: SAE | None
) -> SAE:
    p, meta = state.p, store.meta
    began = {"init": origin(start)} if start else {}
    return SAE(
        variant=variant,
        W_enc=p.encoder.T,
        W_dec=p.decoder,
        b_enc=p.b_enc / state.scale,  # activate(s·pre) = s·activate(pre): only the biases carry the scale
        b_dec=p.b_dec / state.scale,
        extra=variant.finish(p.extra, state.scale) if isinstance(variant, Extended) else {},
        metadata={
            "member": meta.member, "site": meta.site, "seed": seed, "context": meta.context,
            "stream": meta.stream_digest, "model_digest": meta.model_digest, "input_scale": state.scale,
            "train_tokens": training.steps * training.batch_tokens, "training": msgspec.to_builtins(training),
            **began,
        },
    )  # fmt: skip


def _settled(
    training: Training, variant: Variant, d_in: int, checkpoint: Path | None, device: str
) -> Training:
    """Return the training with a dtype: the one asked for, else that of the checkpoint, else the faster one."""
    if training.dtype != "auto":
        return training
    found = "float32"
    if checkpoint is not None and checkpoint.exists():
        with _opened(checkpoint) as file:
            found = msgspec.json.decode(file.metadata()["settings"])["training"].get("dtype", found)
    elif isinstance(variant, TopK) and torch.device(device).type == "cpu":
        found = fastest_dtype(d_in, variant.d_sae, variant.k)
    return msgspec.structs.replace(training, dtype=found)


def _record(variant: Variant, store: Activations, training: Training, seed: int, start: SAE | None) -> str:
    record: dict[str, Any] = {
        "variant": msgspec.to_builtins(variant), "training": msgspec.to_builtins(training), "seed": seed,
        "store": msgspec.to_builtins(store.meta),
    }  # fmt: skip
    if start is not None:
        record["init"] = origin(start)
    return msgspec.json.encode(record, order="sorted").decode()


def _save(path: Path, state: _State, settings: str) -> None:
    tensors = {"since": torch.from_numpy(state.since)}
    for group, p in (("weight", state.p), ("mean", state.adam.mean), ("square", state.adam.square)):
        tensors |= {f"{group}.{name}": getattr(p, name).cpu().contiguous() for name in p.__struct_fields__}
    facts = {"step": state.step, "scale": state.scale, "mean_l0": state.mean_l0}
    metadata = {"settings": settings, "facts": msgspec.json.encode(facts).decode()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: is no checkpoint ({error})", "delete it: the training starts anew"
        ) from None


def _resume(path: Path | None, settings: str, training: Training, device: str) -> _State | None:
    if path is None or not path.exists():
        return None
    with _opened(path) as file:
        metadata = file.metadata()
        if metadata["settings"] != settings:
            raise MismatchError(
                f"{path}: is a checkpoint of other settings", "delete it, or use the same settings"
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    facts = msgspec.json.decode(metadata["facts"])

    def group(name: str) -> Parameters:
        return Parameters(*(tensors[f"{name}.{field}"].to(device) for field in Parameters.__struct_fields__))

    adam = Adam(group("mean"), group("square"), facts["step"], training.beta1, training.beta2)
    return _State(
        group("weight"), adam, tensors["since"].numpy(), facts["scale"], facts["mean_l0"], facts["step"]
    )
