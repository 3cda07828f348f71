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
from heredity.errors import ConfigError, MismatchError
from heredity.features.sae._sae import SAE
from heredity.features.sae.topk import TopK
from heredity.features.site import Site, editing, reading

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
    batch_tokens: int = 4096,
) -> Quality:
    """Measure an SAE on held-out text; see `Quality`.

    Raises:
        MismatchError: the activations at the site have another width than the SAE.
    """
    return quality_curve(sae, model, stream, site, [None], ablation=ablation, batch_tokens=batch_tokens)[0]


def quality_curve(
    sae: SAE,
    model: nn.Module,
    stream: TokenStream,
    site: str,
    ks: Sequence[int | None],
    *,
    ablation: Ablation = "zero",
    batch_tokens: int = 4096,
) -> list[Quality]:
    """Measure an SAE with several k at evaluation; None is the SAE as trained.

    The clean and the ablated passes are made once for all of them.

    Raises:
        ConfigError: a k is given for a variant that has none.
        MismatchError: the activations at the site have another width than the SAE.
    """
    place = Site.parse(site)
    saes = [sae if k is None else _with_k(sae, k) for k in ks]
    mean, spread = _moments(model, stream, place, sae.d_in, batch_tokens)
    sums = [_Sums(np.zeros(s.d_sae, bool)) for s in saes]
    clean = zero = 0.0
    fill = torch.from_numpy(mean).float() if ablation == "mean" else torch.zeros(sae.d_in)

    def ablate(x: Tensor) -> Tensor:
        return fill.to(x).expand_as(x)

    for ids in _batches(model, stream, batch_tokens):
        clean += _loss(model, ids)
        with editing(model, {place: ablate}):
            zero += _loss(model, ids)
        for one, total in zip(saes, sums, strict=True):
            with editing(model, {place: _splice(one, total)}):
                total.loss += _loss(model, ids)
    n_tokens = stream.n_blocks * stream.context
    n_predicted = stream.n_blocks * (stream.context - 1)
    ce_clean, ce_zero = clean / n_predicted, zero / n_predicted
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
            k=one.variant.k if isinstance(one.variant, TopK) else None,
            ablation=ablation,
        )
        for one, total in zip(saes, sums, strict=True)
    ]


class _Sums(Struct, eq=False):
    fired: Bool[ndarray, " d_sae"]
    squared_error: float = 0.0
    n_codes: int = 0
    loss: float = 0.0


def _with_k(sae: SAE, k: int) -> SAE:
    if not isinstance(sae.variant, TopK):
        raise ConfigError(f"a {sae.variant.architecture} SAE has no k", "leave k out")
    return msgspec.structs.replace(sae, variant=msgspec.structs.replace(sae.variant, k=k))


def _splice(sae: SAE, total: _Sums) -> Callable[[Tensor], Tensor]:
    def edit(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        again, codes = sae.reconstruct(rows)
        total.squared_error += float((rows - again).double().square().sum())
        total.n_codes += len(codes.values)
        total.fired[codes.indices] = True
        return again.reshape(x.shape)

    return edit


def _moments(
    model: nn.Module, stream: TokenStream, site: Site, d_in: int, batch_tokens: int
) -> tuple[Float64[ndarray, " d"], float]:
    """Return the mean activation, and Σ‖x − x̄‖² over the stream."""
    total, squares, n = torch.zeros(d_in, dtype=torch.float64), 0.0, 0
    with torch.no_grad(), reading(model, [site]) as seen:
        for ids in _batches(model, stream, batch_tokens):
            model(input_ids=ids)
            x = seen[site].reshape(-1, seen[site].shape[-1]).double().cpu()
            if x.shape[1] != d_in:
                raise MismatchError(
                    f"site {site}: activations are {x.shape[1]} wide, the SAE's W_enc takes {d_in}",
                    "use the SAE of this site",
                )
            total += x.sum(dim=0)
            squares += float(x.square().sum())
            n += len(x)
    mean = (total / n).numpy()
    return mean, squares - n * float(mean @ mean)


def _batches(model: nn.Module, stream: TokenStream, batch_tokens: int) -> list[Tensor]:
    device = next(model.parameters()).device
    model.eval()
    blocks, step = stream.blocks(), max(1, batch_tokens // stream.context)
    return [
        torch.from_numpy(blocks[start : start + step].astype(np.int64)).to(device)
        for start in range(0, len(blocks), step)
    ]


def _loss(model: nn.Module, ids: Tensor) -> float:
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].float()
    flat = logits.reshape(-1, logits.shape[-1])
    return float(nn.functional.cross_entropy(flat, ids[:, 1:].reshape(-1), reduction="none").double().sum())
