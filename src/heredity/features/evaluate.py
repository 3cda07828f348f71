"""How good an SAE is: sparsity, variance unexplained, and the model's loss when it must use x̂ for x.

The SAE is spliced in at its site by a hook. `ce_recovered` = (ce_zero − ce_sae) / (ce_zero − ce_clean), where
the zero ablation sets the activations at the site to 0.
"""

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
from heredity.features.sae._sae import SAE
from heredity.features.sae.topk import TopK
from heredity.features.site import Site, editing, reading
from heredity.models.evaluate import default_batch, token_losses

Ablation = Literal["zero", "mean"]


class Quality(Struct, frozen=True, kw_only=True):
    """One SAE on one evaluation stream.

    Attributes:
        l0: mean firings per token.
        fvu: Σ‖x − x̂‖² / Σ‖x − x̄‖² over the whole stream; 0 is perfect.
        ce_clean: next-token cross-entropy of the untouched model, nats per token.
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
    ce_clean: float
    ce_sae: float
    ce_zero: float
    ce_recovered: float
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
) -> Quality:
    """Measure an SAE on held-out text; see `Quality`.

    Raises:
        MismatchError: the activations at the site have another width than the SAE.
    """
    return qualities([sae], model, stream, site, ablation=ablation, batch_tokens=batch_tokens)[0]


def quality_curve(
    sae: SAE,
    model: nn.Module,
    stream: TokenStream,
    site: str,
    ks: Sequence[int | None],
    *,
    ablation: Ablation = "zero",
    batch_tokens: int | None = None,
) -> list[Quality]:
    """Measure an SAE with several k at evaluation; None is the SAE as trained.

    Raises:
        ConfigError: a k is given for a variant that has none.
        MismatchError: the activations at the site have another width than the SAE.
    """
    saes = [sae if k is None else with_k(sae, k) for k in ks]
    return qualities(saes, model, stream, site, ablation=ablation, batch_tokens=batch_tokens)


def qualities(
    saes: Sequence[SAE],
    model: nn.Module,
    stream: TokenStream,
    site: str,
    *,
    ablation: Ablation = "zero",
    batch_tokens: int | None = None,
) -> list[Quality]:
    """Measure several SAEs of one model; the clean and the ablated passes are made once for all of them.

    Raises:
        MismatchError: the activations at the site have another width than an SAE.
    """
    place = Site.parse(site)
    batches = _batches(model, stream, batch_tokens)
    clean, mean, spread = _clean(model, batches, place, saes)
    fill = torch.from_numpy(mean).float() if ablation == "mean" else torch.zeros(len(mean))

    def ablate(x: Tensor) -> Tensor:
        return fill.to(x).expand_as(x)

    with editing(model, {place: ablate}):
        zero = sum(_loss(model, ids) for ids in batches)
    sums = [_Sums(np.zeros(sae.d_sae, bool)) for sae in saes]
    for sae, total in zip(saes, sums, strict=True):
        with editing(model, {place: _splice(sae, total)}):
            total.loss = sum(_loss(model, ids) for ids in batches)
    n_tokens = stream.n_blocks * stream.context
    n_predicted = stream.n_blocks * (stream.context - 1)
    ce_clean, ce_zero = clean / n_predicted, zero / n_predicted
    if ce_zero == ce_clean or spread <= 0:
        raise StoreError(
            f"site {site}: its activations do not vary, or the model's loss does not depend on them",
            "choose a site that the model uses: nothing can be recovered there",
        )
    return [
        Quality(
            l0=total.n_codes / n_tokens,
            fvu=total.squared_error / spread,
            ce_clean=ce_clean,
            ce_sae=total.loss / n_predicted,
            ce_zero=ce_zero,
            ce_recovered=(ce_zero - total.loss / n_predicted) / (ce_zero - ce_clean),
            dead_share=float(1 - total.fired.mean()),
            n_tokens=n_tokens,
            k=sae.variant.k if isinstance(sae.variant, TopK) else None,
            ablation=ablation,
        )
        for sae, total in zip(saes, sums, strict=True)
    ]


def with_k(sae: SAE, k: int) -> SAE:
    """Return a TopK SAE with another number of latents per token.

    Raises:
        ConfigError: the variant has no k.
    """
    if not isinstance(sae.variant, TopK):
        raise ConfigError(f"a {sae.variant.architecture} SAE has no k", "leave k out")
    return msgspec.structs.replace(sae, variant=msgspec.structs.replace(sae.variant, k=k))


class _Sums(Struct, eq=False):
    fired: Bool[ndarray, " d_sae"]
    squared_error: float = 0.0
    n_codes: int = 0
    loss: float = 0.0


def _splice(sae: SAE, total: _Sums) -> Callable[[Tensor], Tensor]:
    def edit(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        again, codes = sae.reconstruct(rows)
        total.squared_error += float((rows - again).double().square().sum())
        total.n_codes += len(codes.values)
        total.fired[codes.indices] = True
        return again.reshape(x.shape)

    return edit


def _clean(
    model: nn.Module, batches: Sequence[Tensor], site: Site, saes: Sequence[SAE]
) -> tuple[float, Float64[ndarray, " d"], float]:
    """Return the summed loss of the untouched model, its mean activation, and Σ‖x − x̄‖²."""
    loss, squares, n = 0.0, 0.0, 0
    total: Tensor | None = None
    with torch.no_grad(), reading(model, [site]) as seen:
        for ids in batches:
            loss += _loss(model, ids)
            x = seen[site].reshape(-1, seen[site].shape[-1]).double().cpu()
            wrong = [sae.d_in for sae in saes if sae.d_in != x.shape[1]]
            if wrong:
                raise MismatchError(
                    f"site {site}: activations are {x.shape[1]} wide, the SAE's W_enc takes {wrong[0]}",
                    "use the SAE of this site",
                )
            total = x.sum(dim=0) if total is None else total + x.sum(dim=0)
            squares += float(x.square().sum())
            n += len(x)
    if total is None:
        raise StoreError("the token stream is shorter than one context", "give it more text")
    mean = (total / n).numpy()
    return loss, mean, squares - n * float(mean @ mean)


def _batches(model: nn.Module, stream: TokenStream, batch_tokens: int | None) -> list[Tensor]:
    device = next(model.parameters()).device
    model.eval()
    blocks, step = stream.blocks(), max(1, (batch_tokens or default_batch(device)) // stream.context)
    return [
        torch.from_numpy(blocks[start : start + step].astype(np.int64)).to(device)
        for start in range(0, len(blocks), step)
    ]


def _loss(model: nn.Module, ids: Tensor) -> float:
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].float()
    return float(token_losses(logits, ids[:, 1:]).double().sum())
