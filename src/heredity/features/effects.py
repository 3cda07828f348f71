"""What latents do to the next token: direct effects on the logits, held against what the models see and do.

The direct effect of a latent is its decoder row through the site's `Readout`, per unit of activation. Two checks
say how far to believe it, each with a null of other latents' effects:

- **observed**: where the latent fires, do the next tokens of the text have a higher direct effect than elsewhere?
- **measured**: with the latent's part taken out of the activations where it fires most, do the model's own
  log-probabilities change as the direct effect says (Pearson over the vocabulary)?
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float32, Float64, Int64
from numpy import ndarray
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from heredity.corpora.tokens import TokenStream
from heredity.features.codes import Codes
from heredity.features.describe import Decode
from heredity.features.readout import Readout
from heredity.features.site import Site, editing
from heredity.models.evaluate import default_batch
from heredity.seeds import generator

_CHUNK_NUMBERS = 1 << 24
_HIGH = 95


def effects_table(
    readout: Readout,
    decoder: Float32[ndarray, "latents d_site"],
    codes: Codes,
    stream: TokenStream,
    decode: Decode,
    *,
    seed: int,
    column: int = 0,
    top: int = 8,
    nulls: int = 50,
    vocabulary: int | None = None,
) -> pl.DataFrame:
    """Tell which next tokens each latent of one SAE promotes and suppresses.

    Args:
        readout: of the SAE's site in its model.
        decoder: W_dec.
        codes: of the SAE.
        stream: the tokens that they stand on.
        decode: text of a token.
        seed: key of the null's draw.
        column: for the column `seed`.
        top: tokens listed at each end.
        nulls: other latents whose effects stand beside each latent's own.
        vocabulary: entries that the tokenizer knows, where the unembedding is padded.

    Columns: member, seed, latent; promoted, promoted_effects, suppressed, suppressed_effects (tokens, and logits per
    unit of activation before the norm's division, over the vocabulary's mean); effect_std, effect_kurtosis (over the
    vocabulary; kurtosis is 0 for a normal spread, large where few tokens are meant); observed (mean effect on the
    tokens that follow its firings, in standard deviations over all next tokens of the stream, above their mean),
    observed_null, observed_null_high (mean and 95th percentile of the same with other latents' effects), n_next
    (firings with a next token in their context); directness (of the site, see `Readout`).
    """
    other = _others(codes, seed, nulls)
    null = readout.effects(decoder[other], vocabulary)
    following = _following(stream, null.shape[1])
    parts = []
    size = max(1, _CHUNK_NUMBERS // null.shape[1])
    for start in range(0, codes.d_sae, size):
        latents = np.arange(start, min(start + size, codes.d_sae))
        effects = readout.effects(decoder[latents], vocabulary)
        parts.append(
            {
                **_ends(effects, decode, top),
                **_observed(effects.cpu().numpy(), null.cpu().numpy(), other, latents, codes, following),
            }
        )
    n = codes.d_sae
    joined = {name: _joined([part[name] for part in parts]) for name in parts[0]}
    who = {"member": [codes.meta.member] * n, "seed": [column] * n, "latent": np.arange(n)}
    joined["directness"] = [readout.directness] * n
    return pl.DataFrame({**who, **joined}).with_columns(pl.selectors.float().fill_nan(None))


def measured_effects(
    model: nn.Module,
    readout: Readout,
    site: str,
    decoder: Float32[ndarray, "latents d_site"],
    codes: Codes,
    stream: TokenStream,
    latents: Sequence[int],
    *,
    seed: int,
    column: int = 0,
    contexts: int = 4,
    nulls: int = 50,
    vocabulary: int | None = None,
    batch_tokens: int | None = None,
) -> pl.DataFrame:
    """Take latents out where they fire most, and compare the change of the model's log-probabilities.

    Args:
        model: the causal language model that the codes are of.
        readout: of the site in it.
        site: where the SAE stands.
        decoder: W_dec.
        codes: of the SAE.
        stream: the tokens that they stand on.
        latents: which.
        seed: key of the null's draw.
        column: for the column `seed`.
        contexts: contexts per latent, at the strongest firing of each.
        nulls: other latents whose direct effects stand beside each latent's own.
        vocabulary: entries that the tokenizer knows.
        batch_tokens: tokens of one forward pass.

    Columns: member, seed, latent; measured (Pearson over the vocabulary of the direct effect with the mean change,
    log-probability with the latent less without it), measured_null, measured_null_high (mean and 95th percentile of
    the same with other latents' direct effects), n_contexts.
    """
    other = _others(codes, seed, nulls)
    null = _standard(readout.effects(decoder[other], vocabulary))
    rows = []
    for latent, change in _changes(model, site, decoder, codes, stream, latents, contexts, batch_tokens):
        mean = _standard(change[:, :vocabulary].mean(dim=0, keepdim=True).to(null))[0]
        own = _standard(readout.effects(decoder[[latent]], vocabulary))[0]
        others = (null @ mean).cpu().numpy()[other != latent]
        rows.append(
            {
                "member": codes.meta.member, "seed": column, "latent": latent, "measured": float(own @ mean),
                "measured_null": float(others.mean()), "measured_null_high": float(np.percentile(others, _HIGH)),
                "n_contexts": len(change),
            }
        )  # fmt: skip
    schema = {
        "member": pl.String, "seed": pl.Int64, "latent": pl.Int64, "measured": pl.Float64,
        "measured_null": pl.Float64, "measured_null_high": pl.Float64, "n_contexts": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def _ends(effects: Float32[Tensor, "latents vocabulary"], decode: Decode, top: int) -> dict[str, Any]:
    """List the tokens at both ends of each latent's effects, and describe their spread."""
    found: dict[str, Any] = {}
    for name, largest in (("promoted", True), ("suppressed", False)):
        values, tokens = effects.topk(top, dim=1, largest=largest)
        found[name] = [[decode(i) for i in row] for row in tokens.tolist()]
        found[f"{name}_effects"] = values.tolist()
    square = effects.square()
    variance = square.mean(dim=1)
    fourth = square.square().mean(dim=1) / variance.square().clamp_min(torch.finfo(variance.dtype).tiny)
    found["effect_std"] = variance.sqrt().double().cpu().numpy()
    found["effect_kurtosis"] = fourth.double().cpu().numpy() - 3
    return found


def _observed(
    effects: Float32[ndarray, "chunk vocabulary"],
    null: Float32[ndarray, "nulls vocabulary"],
    other: Int64[ndarray, " nulls"],
    latents: Int64[ndarray, " chunk"],
    codes: Codes,
    following: Int64[ndarray, " tokens"],
) -> dict[str, Any]:
    """Standardise the mean effect on the tokens that follow each latent's firings; see `effects_table`."""
    size = effects.shape[1]
    start, stop = codes.starts[latents[0]], codes.starts[latents[-1] + 1]
    names = following[codes.tokens[start:stop]]
    bounds = codes.starts[latents[0] : latents[-1] + 2] - start
    counts = csr_matrix((np.ones(len(names), np.float32), names, bounds), shape=(len(latents), size + 1))
    counts.sum_duplicates()
    counts = counts[:, :size]  # the last column is "no next token"
    n = np.asarray(counts.sum(axis=1)).ravel()
    every = np.bincount(following, minlength=size + 1)[:size] / max(1, (following < size).sum())
    own = np.asarray(counts.multiply(effects).sum(axis=1)).ravel() / np.maximum(n, 1)
    own = (own - effects @ every) / _spread(effects, every)
    others = (counts @ null.T) / np.maximum(n, 1)[:, None]
    others = (others - null @ every) / _spread(null, every)
    others[latents[:, None] == other] = np.nan
    fires = n > 0
    columns = {
        name: np.full(len(latents), np.nan) for name in ("observed", "observed_null", "observed_null_high")
    }
    columns["observed"][fires] = own[fires]
    columns["observed_null"][fires] = np.nanmean(others[fires], axis=1)
    columns["observed_null_high"][fires] = np.nanpercentile(others[fires], _HIGH, axis=1)
    return {**columns, "n_next": n.astype(np.int64)}


def _spread(effects: ndarray, every: Float64[ndarray, " vocabulary"]) -> Float64[ndarray, " n"]:
    mean = effects @ every
    variance = np.square(effects) @ every - np.square(mean)
    return np.sqrt(np.maximum(variance, 1e-30))


def _following(stream: TokenStream, none: int) -> Int64[ndarray, " tokens"]:
    """Return the next token of each token; `none` at the end of a context, where the model sees none."""
    tokens = np.asarray(stream.tokens).astype(np.int64)
    following = np.append(tokens[1:], none)
    following[stream.context - 1 :: stream.context] = none
    return following


def _others(codes: Codes, seed: int, n: int) -> Int64[ndarray, " nulls"]:
    """Draw latents that fire, by a key."""
    alive = np.flatnonzero(codes.firings)
    draw = generator(seed, "other latents' effects", codes.meta.member, codes.meta.seed)
    return np.sort(draw.permutation(alive)[: n + 1])


def _changes(
    model: nn.Module,
    site: str,
    decoder: Float32[ndarray, "latents d_site"],
    codes: Codes,
    stream: TokenStream,
    latents: Sequence[int],
    contexts: int,
    batch_tokens: int | None,
) -> Iterator[tuple[int, Float[Tensor, "contexts vocabulary"]]]:
    """Yield each latent that fires with the changes of log-probability at its strongest firings."""
    blocks, place = stream.blocks(), Site.parse(site)
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    device = next(model.parameters()).device
    peaks = {int(latent): _strongest(codes, int(latent), stream, contexts) for latent in latents}
    size = max(contexts, (batch_tokens or default_batch(device)) // stream.context)
    group: list[int] = []
    model.eval()
    for at, latent in enumerate(peaks):
        group.append(latent)
        if sum(len(peaks[one][0]) for one in group) < size and at + 1 < len(peaks):
            continue
        tokens = np.concatenate([peaks[one][0] for one in group])
        values = np.concatenate([peaks[one][1] for one in group])
        owner = np.concatenate([np.full(len(peaks[one][0]), one) for one in group])
        if len(tokens):
            ids = torch.from_numpy(blocks[tokens // stream.context].astype(np.int64)).to(device)
            where = torch.from_numpy(tokens % stream.context).to(device)
            part = torch.from_numpy(values[:, None] * decoder[owner]).to(device)
            clean = _log_probabilities(model, head, ids, where, {})
            without = _log_probabilities(model, head, ids, where, {place: _without(part, where)})
            changes = clean - without
            for one in group:
                if (owner == one).any():
                    yield one, changes[torch.from_numpy(owner == one).to(device)]
        group = []


def _log_probabilities(
    model: nn.Module, head: nn.Module, ids: Tensor, where: Tensor, edits: dict[Site, Any]
) -> Float[Tensor, "rows vocabulary"]:
    """Return the next token's log-probabilities at one place of each row; other places' logits are not computed."""
    rows = torch.arange(len(ids), device=ids.device)

    def only(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][rows, where][:, None], *args[1:])

    handle = head.register_forward_pre_hook(only)
    try:
        with torch.no_grad(), editing(model, edits):
            logits = model(input_ids=ids, use_cache=False).logits[:, 0]
    finally:
        handle.remove()
    return logits.float().log_softmax(dim=-1)


def _without(part: Tensor, where: Tensor) -> Any:
    def edit(x: Tensor) -> Tensor:
        rows = x.reshape(len(part), -1, x.shape[-1]).clone()
        rows[torch.arange(len(part), device=x.device), where] -= part.to(rows)
        return rows.reshape(x.shape)

    return edit


def _strongest(
    codes: Codes, latent: int, stream: TokenStream, n: int
) -> tuple[Int64[ndarray, " peaks"], Float32[ndarray, " peaks"]]:
    """Return the strongest firing of each of the n contexts where a latent fires most, in whole contexts only."""
    tokens, values = codes.of_latent(latent)
    tokens = tokens.astype(np.int64)
    order = np.lexsort((tokens, -values))
    order = order[tokens[order] < stream.n_blocks * stream.context]
    _, first = np.unique(tokens[order] // stream.context, return_index=True)
    chosen = order[np.sort(first)[:n]]
    return tokens[chosen], values[chosen]


def _standard(rows: Float[Tensor, "n vocabulary"]) -> Float[Tensor, "n vocabulary"]:
    """Centre rows and scale them to norm 1, so that products are correlations."""
    centred = rows.double() - rows.double().mean(dim=1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    return centred / torch.where(norms > 0, norms, torch.ones_like(norms))


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], ndarray):
        return np.concatenate(parts)
    return [row for part in parts for row in part]
