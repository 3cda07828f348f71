"""How good a crosscoder is in each member: as `evaluate.quality`, with codes read from all members at once."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray
from torch import Tensor, nn

from heredity.corpora.tokens import TokenStream
from heredity.errors import MismatchError, StoreError
from heredity.features.crosscoding import members_of
from heredity.features.evaluate import Quality
from heredity.features.sae._sae import SAE
from heredity.features.site import Edit, Site, editing, reading
from heredity.models.evaluate import default_batch, token_losses


def crosscoder_qualities(
    sae: SAE,
    models: Mapping[str, nn.Module],
    stream: TokenStream,
    site: str,
    *,
    batch_tokens: int | None = None,
) -> dict[str, Quality]:
    """Measure a crosscoder on held-out text: in each member, its own x̂ takes the place of its own x.

    Args:
        sae: a crosscoder.
        models: one per member.
        stream: held-out text.
        site: where the activations are.
        batch_tokens: tokens of one forward pass.

    Returns:
        by member; `l0` and `dead_share` are of the joint code, the same in all; the ablation is zero.

    Raises:
        MismatchError: a member has no model, or the activations are of another width.
        StoreError: the stream is shorter than one context, or the models' loss does not depend on the site.
    """
    members, place = members_of(sae), Site.parse(site)
    missing = [name for name in members if name not in models]
    if missing:
        raise MismatchError(f"no model of {missing[0]!r}, the crosscoder is over {list(members)}", "load it")
    losses = {name: np.zeros(3) for name in members}  # clean, zero, spliced
    sums, spread, left = np.zeros(sae.d_in), np.zeros(sae.d_in), np.zeros(sae.d_in)
    fired, n_codes, n = np.zeros(sae.d_sae, bool), 0, 0
    for batch in _batches(stream, models, batch_tokens):
        rows = [_read(models[name], place, batch) for name in members]
        if len({row.shape[1] for row in rows}) > 1 or sum(row.shape[1] for row in rows) != sae.d_in:
            raise MismatchError(
                f"site {site}: activations are {[row.shape[1] for row in rows]} wide, W_enc takes {sae.d_in} together",
                "use the crosscoder of this site",
            )
        x = torch.cat(rows, dim=1)
        again, codes = sae.reconstruct(x)
        sums += x.double().sum(dim=0).numpy()
        spread += x.double().square().sum(dim=0).numpy()
        left += (x - again).double().square().sum(dim=0).numpy()
        fired[codes.indices] = True
        n_codes, n = n_codes + len(codes.values), n + len(x)
        for name, block in zip(members, again.chunk(len(members), dim=1), strict=True):
            losses[name] += [
                _loss(models[name], place, batch, edit) for edit in (None, torch.zeros_like, _put(block))
            ]
    if n == 0:
        raise StoreError("the token stream is shorter than one context", "give it more text")
    spread -= np.square(sums) / n
    n_predicted = stream.n_blocks * (stream.context - 1)
    out, d = {}, sae.d_in // len(members)
    for m, name in enumerate(members):
        clean, zero, spliced = losses[name] / n_predicted
        mine = slice(m * d, (m + 1) * d)
        if zero == clean or spread[mine].sum() <= 0:
            raise StoreError(
                f"{name}, {site}: the activations do not vary, or the loss does not depend on them",
                "choose a site that the model uses",
            )
        out[name] = Quality(
            l0=n_codes / n, fvu=float(left[mine].sum() / spread[mine].sum()), ce_clean=clean, ce_sae=spliced,
            ce_zero=zero, ce_recovered=(zero - spliced) / (zero - clean), dead_share=float(1 - fired.mean()),
            n_tokens=n, k=None, ablation="zero",
        )  # fmt: skip
    return out


def _batches(
    stream: TokenStream, models: Mapping[str, nn.Module], batch_tokens: int | None
) -> list[Int64[ndarray, "blocks context"]]:
    device = next(next(iter(models.values())).parameters()).device
    step = max(1, (batch_tokens or default_batch(device)) // stream.context)
    blocks = stream.blocks()
    return [blocks[start : start + step].astype(np.int64) for start in range(0, len(blocks), step)]


def _ids(model: nn.Module, batch: Int64[ndarray, "blocks context"]) -> Tensor:
    model.eval()
    return torch.from_numpy(batch).to(next(model.parameters()).device)


def _read(model: nn.Module, place: Site, batch: Int64[ndarray, "blocks context"]) -> Tensor:
    with torch.no_grad(), reading(model, [place]) as seen:
        model(input_ids=_ids(model, batch))
    return seen[place].reshape(-1, seen[place].shape[-1]).float().cpu()


def _put(rows: Tensor) -> Edit:
    return lambda x: rows.to(x).reshape(x.shape)


def _loss(model: nn.Module, place: Site, batch: Int64[ndarray, "blocks context"], edit: Edit | None) -> float:
    ids = _ids(model, batch)
    with torch.no_grad(), editing(model, {place: edit} if edit else {}):
        logits = model(input_ids=ids).logits[:, :-1].float()
    return float(token_losses(logits, ids[:, 1:]).double().sum())
