"""How good a crosscoder is in each member: as `evaluate.quality`, with codes read from all members at once.

The members' activations are kept on disk while they are needed, so that one model at a time is in memory.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from msgspec import Struct
from numpy import ndarray
from torch import Tensor, nn

from heredity.corpora.tokens import TokenStream
from heredity.errors import MismatchError, StoreError
from heredity.features.codes import Codes
from heredity.features.crosscoding import encode_members, members_of, some_tokens
from heredity.features.evaluate import Ablation, Quality
from heredity.features.feed import Ends, Feed
from heredity.features.harvest import harvest
from heredity.features.joint import JointStore
from heredity.features.sae._sae import SAE
from heredity.features.site import Edit, Site, editing
from heredity.features.store import ActivationStore
from heredity.models.architecture import predicts_text
from heredity.models.evaluate import default_batch, token_losses

_BATCH = 4096


class OnDemand(Mapping[str, nn.Module]):
    """Models by name, each loaded anew when it is asked for, so that none stays in memory."""

    def __init__(self, names: Sequence[str], load: Callable[[str], nn.Module]) -> None:
        self._names, self._load = tuple(names), load

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self._names:
            raise KeyError(name)
        return self._load(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # the default would load it

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def crosscoder_qualities(
    sae: SAE,
    models: Mapping[str, nn.Module],
    stream: TokenStream,
    site: str,
    *,
    ablation: Ablation = "zero",
    batch_tokens: int | None = None,
    ends: Callable[[nn.Module], Ends | None] = lambda _: None,
    work: Path | None = None,
) -> dict[str, Quality]:
    """Measure a crosscoder on held-out text: in each member, its own x̂ takes the place of its own x.

    Args:
        sae: a crosscoder.
        models: one per member; `OnDemand` keeps no more than one in memory.
        stream: held-out text.
        site: where the activations are.
        ablation: what ce_zero puts in place of x.
        batch_tokens: tokens of one forward pass.
        ends: [CLS] and [SEP] around every context, as the activations were harvested.
        work: folder for activations in the meantime, tokens × members × d × 4 bytes; it is removed in the end, and
            an interrupted call goes on with what is there. None: a temporary one.

    Returns:
        by member; `l0` and `dead_share` are of the joint code, the same in all. A member that is no causal LM has no
        losses.

    Raises:
        MismatchError: a member has no model, or the activations are of another width.
        StoreError: the stream is shorter than one context, or the models' loss does not depend on the site.
        DiskFullError: there is no room for the activations.
    """
    members = members_of(sae)
    missing = [name for name in members if name not in models]
    if missing:
        raise MismatchError(f"no model of {missing[0]!r}, the crosscoder is over {list(members)}", "load it")
    with _folder(work) as folder:
        stores = [
            _activations(models[name], stream, site, folder / f"member-{m}", name, batch_tokens, ends)
            for m, name in enumerate(members)
        ]
        codes = encode_members(sae, stores)
        fit = _fit(sae, stores, codes)
        out: dict[str, Quality] = {}
        for m, name in enumerate(members):
            own = slice(m * stores[0].d, (m + 1) * stores[0].d)
            clean, zero, spliced = _losses(
                models[name], stream, site, batch_tokens,
                fill=fit.mean[own] if ablation == "mean" else np.zeros_like(fit.mean[own]),
                again=lambda start, stop, own=own: sae.expand(some_tokens(codes, start, stop))[:, own],  # type: ignore[misc]
            )  # fmt: skip
            recovered = None
            if clean is not None and zero is not None and spliced is not None and zero != clean:
                recovered = (zero - spliced) / (zero - clean)
            if fit.spread[own].sum() <= 0 or (clean is not None and zero == clean):
                raise StoreError(
                    f"{name}, {site}: the activations do not vary, or the loss does not depend on them",
                    "choose a site that the model uses",
                )
            out[name] = Quality(
                l0=codes.l0, fvu=float(fit.left[own].sum() / fit.spread[own].sum()), ce_clean=clean, ce_sae=spliced,
                ce_zero=zero, ce_recovered=recovered, dead_share=float((codes.firings == 0).mean()),
                n_tokens=codes.n_tokens, k=None, ablation=ablation,
            )  # fmt: skip
    return out


class _Fit(Struct, frozen=True, eq=False):
    """Of every column of the members' activations: mean, Σ(x − x̄)², Σ(x − x̂)²."""

    mean: Float64[ndarray, " members_d"]
    spread: Float64[ndarray, " members_d"]
    left: Float64[ndarray, " members_d"]


def _fit(sae: SAE, stores: Sequence[ActivationStore], codes: Codes) -> _Fit:
    joint = JointStore(stores, [1.0] * len(stores))
    sums, squares, left = np.zeros(sae.d_in), np.zeros(sae.d_in), np.zeros(sae.d_in)
    for start in range(0, joint.n_tokens, _BATCH):
        x = joint.read(start, start + _BATCH)
        again = sae.expand(some_tokens(codes, start, start + _BATCH))
        sums += x.sum(axis=0, dtype=np.float64)
        squares += np.square(x, dtype=np.float64).sum(axis=0)
        left += np.square(x - again, dtype=np.float64).sum(axis=0)
    return _Fit(sums / joint.n_tokens, squares - np.square(sums) / joint.n_tokens, left)


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    if work is None:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
        return
    yield work
    shutil.rmtree(work, ignore_errors=True)


def _activations(
    model: nn.Module, stream: TokenStream, site: str, out: Path, name: str, batch_tokens: int | None,
    ends: Callable[[nn.Module], Ends | None],
) -> ActivationStore:  # fmt: skip
    return harvest(
        model, stream, site, out, member=name, dtype="float32", batch_tokens=_batch(model, batch_tokens),
        ends=ends(model),
    )  # fmt: skip


def _losses(
    model: nn.Module, stream: TokenStream, site: str, batch_tokens: int | None, *,
    fill: Float64[ndarray, " d"], again: Callable[[int, int], ndarray],
) -> tuple[float, float, float] | tuple[None, None, None]:  # fmt: skip
    """Return a causal LM's loss per token: untouched, ablated, and with x̂; None for other models."""
    if not predicts_text(model):
        return None, None, None
    feed, place, totals = Feed(model.eval()), Site.parse(site), np.zeros(3)
    blocks, step = stream.blocks(), max(1, _batch(model, batch_tokens) // stream.context)
    constant = torch.from_numpy(fill.astype(np.float32))
    for start in range(0, len(blocks), step):
        ids = torch.from_numpy(blocks[start : start + step].astype(np.int64))
        rows = torch.from_numpy(again(start * stream.context, (start + len(ids)) * stream.context))
        edits = (None, lambda x: constant.to(x).expand_as(x), _put(rows))
        totals += [_loss(feed, place, ids, edit) for edit in edits]
    clean, zero, spliced = (float(total) / (len(blocks) * (stream.context - 1)) for total in totals)
    return clean, zero, spliced


def _batch(model: nn.Module, batch_tokens: int | None) -> int:
    return batch_tokens or default_batch(next(model.parameters()).device)


def _put(rows: Tensor) -> Edit:
    return lambda x: rows.to(x).reshape(x.shape)


def _loss(feed: Feed, place: Site, ids: Tensor, edit: Edit | None) -> float:
    with editing(feed.model, {place: edit} if edit else {}):
        logits = feed.run(ids).logits[:, :-1].float()
    return float(token_losses(logits, ids[:, 1:].to(logits.device)).double().sum())
