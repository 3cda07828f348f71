"""How good an SAE is: sparsity, variance unexplained, and the model's loss when it must use x̂ for x.

The SAE is spliced in at its site by a hook. `ce_recovered` = (ce_zero − ce_sae) / (ce_zero − ce_clean), where
the zero ablation sets the activations at the site to 0. A model that is not a causal LM has no such loss: its
SAEs have sparsity and variance only.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np
import torch
from jaxtyping import Bool, Float64
from msgspec import Struct
from numpy import ndarray
from torch import Tensor, nn

from heredity.corpora.tokens import TokenStream
from heredity.errors import ConfigError, MismatchError, StoreError
from heredity.features.feed import Ends, Feed
from heredity.features.sae._sae import SAE
from heredity.features.sae.topk import TopK
from heredity.features.site import EnoughError, Site, editing, reading
from heredity.models.architecture import kind_of, predicts_text
from heredity.models.evaluate import default_batch, token_losses

Ablation = Literal["zero", "mean"]


class Quality(Struct, frozen=True, kw_only=True):
    """One SAE on one evaluation stream.

    Attributes:
        l0: mean firings per token.
        fvu: Σ‖x − x̂‖² / Σ‖x − x̄‖² over the whole stream; 0 is perfect.
        ce_clean: next-token cross-entropy of the untouched model, nats per token; with all that follows from
            it, None for a model that is no causal LM.
        ce_sae: with x̂ in place of x.
        ce_zero: with the ablation in place of x.
        ce_recovered: share of (ce_zero − ce_clean) that x̂ keeps; 1 is perfect.
        dead_share: share of latents that fire on none of the `n_tokens` tokens.
        n_tokens: tokens of the stream.
        k: latents per token at evaluation, for TopK.
        ablation: what ce_zero stands for: zero, or the mean activation.
    """

    l0: float
    fvu: float
    ce_clean: float | None
    ce_sae: float | None
    ce_zero: float | None
    ce_recovered: float | None
    dead_share: float
    n_tokens: int
    k: int | None
    ablation: Ablation


def quality(
    sae: SAE,
    model: nn.Module,
    stream: TokenStream,
    site: str,
    *,
    ablation: Ablation = "zero",
    batch_tokens: int | None = None,
    ends: Ends | None = None,
) -> Quality:
    """Measure an SAE on held-out text; see `Quality`.

    Raises:
        MismatchError: the activations at the site have another width than the SAE.
    """
    return qualities([sae], model, stream, site, ablation=ablation, batch_tokens=batch_tokens, ends=ends)[0]


def quality_curve(
    sae: SAE,
    model: nn.Module,
    stream: TokenStream,
    site: str,
    ks: Sequence[int | None],
    *,
    ablation: Ablation = "zero",
    batch_tokens: int | None = None,
    ends: Ends | None = None,
) -> list[Quality]:
    """Measure an SAE with several k at evaluation; None is the SAE as trained.

    Raises:
        ConfigError: a k is given for a variant that has none, or one above the number of latents.
        MismatchError: the activations at the site have another width than the SAE.
    """
    saes = [sae if k is None else with_k(sae, k) for k in ks]
    return qualities(saes, model, stream, site, ablation=ablation, batch_tokens=batch_tokens, ends=ends)


def qualities(
    saes: Sequence[SAE],
    model: nn.Module,
    stream: TokenStream,
    site: str,
    *,
    ablation: Ablation = "zero",
    batch_tokens: int | None = None,
    ends: Ends | None = None,
) -> list[Quality]:
    """Measure several SAEs of one model; the clean and the ablated passes are made once for all of them.

    Args:
        saes: of one site.
        model: live.
        stream: held-out tokens.
        site: where the SAEs stand.
        ablation: what ce_zero puts in place of x.
        batch_tokens: tokens of a forward pass.
        ends: [CLS] and [SEP] around every context, as the activations were harvested.

    Raises:
        MismatchError: the activations at the site have another width than an SAE.
        StoreError: the stream is empty, or the site's activations are not finite or do not vary.
    """
    place, feed = Site.parse(site), Feed(model.eval(), ends)
    feed.check(stream)
    batches = _batches(model, stream, batch_tokens)
    if not batches:
        raise StoreError("the token stream is shorter than one context", "give it more text")
    sums = [_Sums(np.zeros(sae.d_sae, bool)) for sae in saes]
    if predicts_text(model):
        losses = _spliced(saes, sums, feed, batches, place, ablation)
    else:
        losses = None
        _read(saes, sums, feed, batches, place)
    return [_quality(sae, total, stream, ablation, losses) for sae, total in zip(saes, sums, strict=True)]


def no_loss(model: nn.Module) -> str | None:
    """Say why a model has no next-token loss, or None if it has one."""
    kind = kind_of(model.config)
    reasons = {
        "encoder": "an encoder predicts no next token",
        "encoder-decoder": "the encoder sees the tokens that the decoder would predict",
        "decoder": "the model was saved without its language-model head",
    }
    return None if predicts_text(model) else reasons[kind]


def with_k(sae: SAE, k: int) -> SAE:
    """Return a TopK SAE with another number of latents per token.

    Raises:
        ConfigError: the variant has no k, or the SAE fewer latents.
    """
    if not isinstance(sae.variant, TopK):
        raise ConfigError(f"a {sae.variant.architecture} SAE has no k", "leave k out")
    if k > sae.d_sae:
        raise ConfigError(f"k = {k:,} of an SAE with {sae.d_sae:,} latents", "choose a smaller k")
    return msgspec.structs.replace(sae, variant=msgspec.structs.replace(sae.variant, k=k))


class _Sums(Struct, eq=False):
    fired: Bool[ndarray, " d_sae"]
    squared_error: float = 0.0
    n_codes: int = 0
    loss: float = 0.0
    spread: float = 0.0

    def add(self, sae: SAE, rows: Tensor) -> Tensor:
        """Count what an SAE makes of activations; return x̂."""
        again, codes = sae.reconstruct(rows)
        self.squared_error += float((rows - again).double().square().sum())
        self.n_codes += len(codes.values)
        self.fired[codes.indices] = True
        return again


class _Moments(Struct):
    """Σx, Σ‖x‖², the number of rows and that of batches, for Σ‖x − x̄‖² in the end."""

    total: Tensor | None = None
    squares: float = 0.0
    n: int = 0
    steps: int = 0

    def add(self, rows: Tensor, site: Site, saes: Sequence[SAE]) -> None:
        x = rows.double().cpu()
        wrong = [sae.d_in for sae in saes if sae.d_in != x.shape[1]]
        if wrong:
            raise MismatchError(
                f"site {site}: activations are {x.shape[1]} wide, the SAE's W_enc takes {wrong[0]}",
                "use the SAE of this site",
            )
        squares = float(x.square().sum())
        if not np.isfinite(squares):
            raise StoreError(
                f"site {site}: activations are not finite at step {self.steps}",
                "the model is broken, or overflows in its dtype",
            )
        self.total = x.sum(dim=0) if self.total is None else self.total + x.sum(dim=0)
        self.squares += squares
        self.n += len(x)
        self.steps += 1

    @property
    def mean(self) -> Float64[ndarray, " d"]:
        assert self.total is not None  # there is at least one batch
        mean: Float64[ndarray, " d"] = (self.total / self.n).numpy()
        return mean

    @property
    def spread(self) -> float:
        return self.squares - self.n * float(self.mean @ self.mean)


def _quality(
    sae: SAE, total: _Sums, stream: TokenStream, ablation: Ablation, losses: tuple[float, float] | None
) -> Quality:
    n_tokens = stream.n_blocks * stream.context
    n_predicted = stream.n_blocks * (stream.context - 1)
    clean, zero, spliced = (None, None, None) if losses is None else (
        losses[0] / n_predicted, losses[1] / n_predicted, total.loss / n_predicted
    )  # fmt: skip
    if total.spread <= 0 or (clean is not None and clean == zero):
        raise StoreError(
            "the activations do not vary, or the model's loss does not depend on them",
            "choose a site that the model uses: nothing can be recovered there",
        )
    recovered = (
        None if clean is None or zero is None or spliced is None else (zero - spliced) / (zero - clean)
    )
    return Quality(
        l0=total.n_codes / n_tokens,
        fvu=total.squared_error / total.spread,
        ce_clean=clean,
        ce_sae=spliced,
        ce_zero=zero,
        ce_recovered=recovered,
        dead_share=float(1 - total.fired.mean()),
        n_tokens=n_tokens,
        k=sae.variant.k if isinstance(sae.variant, TopK) else None,
        ablation=ablation,
    )


def _spliced(
    saes: Sequence[SAE],
    sums: Sequence[_Sums],
    feed: Feed,
    batches: Sequence[Tensor],
    site: Site,
    ablation: Ablation,
) -> tuple[float, float]:
    """Put every SAE into a causal LM; return the summed losses of the untouched and of the ablated model."""
    moments, clean = _Moments(), 0.0
    with reading(feed.model, [site]) as seen:
        for ids in batches:
            clean += _loss(feed, ids)
            moments.add(feed.rows(seen[site], ids.shape[0], ids.shape[1], site), site, saes)
    mean = torch.from_numpy(moments.mean).float()
    fill = mean if ablation == "mean" else torch.zeros_like(mean)

    def ablate(x: Tensor) -> Tensor:
        return fill.to(x).expand_as(x)

    with editing(feed.model, {site: ablate}):
        zero = sum(_loss(feed, ids) for ids in batches)
    for sae, total in zip(saes, sums, strict=True):
        total.spread = moments.spread
        with editing(feed.model, {site: _splice(sae, total)}):
            total.loss = sum(_loss(feed, ids) for ids in batches)
    return clean, zero


def _splice(sae: SAE, total: _Sums) -> Callable[[Tensor], Tensor]:
    def edit(x: Tensor) -> Tensor:
        return total.add(sae, x.reshape(-1, x.shape[-1])).reshape(x.shape)

    return edit


def _read(
    saes: Sequence[SAE], sums: Sequence[_Sums], feed: Feed, batches: Sequence[Tensor], site: Site
) -> None:
    """Measure SAEs beside a model that has no loss: one pass, nothing put in."""
    moments = _Moments()
    for ids in batches:
        with reading(feed.model, [site], stop_early=True) as seen, contextlib.suppress(EnoughError):
            feed.run(ids)
        rows = feed.rows(seen[site], ids.shape[0], ids.shape[1], site)
        moments.add(rows, site, saes)
        for sae, total in zip(saes, sums, strict=True):
            total.add(sae, rows)
    for total in sums:
        total.spread = moments.spread


def _batches(model: nn.Module, stream: TokenStream, batch_tokens: int | None) -> list[Tensor]:
    device = next(model.parameters()).device
    blocks, step = stream.blocks(), max(1, (batch_tokens or default_batch(device)) // stream.context)
    return [
        torch.from_numpy(blocks[start : start + step].astype(np.int64)).to(device)
        for start in range(0, len(blocks), step)
    ]


def _loss(feed: Feed, ids: Tensor) -> float:
    logits = feed.run(ids).logits[:, :-1].float()
    return float(token_losses(logits, ids[:, 1:]).double().sum())
