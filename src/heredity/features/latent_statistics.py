"""Where every latent of an SAE fires: on which tokens, and at which places of the context and of the document.

Position is compared with chance in nats: Σ p log(p/q), with p the shares of a latent's firings over bins of
position and q those of all tokens, less (bins − 1)/2n, which n firings drawn at random would show. Position in the
context has bins of equal width (at most 32), so q is uniform; position in the document has bins that double.
"""

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64
from numpy import ndarray

from heredity.corpora.tokens import TokenStream
from heredity.features.codes import Codes
from heredity.features.describe import Decode
from heredity.features.firings import counts_by, sum_by, token_tables

_CONTEXT_BINS = 32
_EARLY_TOKENS = 16


def latent_statistics(
    codes: Codes, stream: TokenStream, decode: Decode, *, seed: int, top: int = 8
) -> pl.DataFrame:
    """Tell of every latent of one SAE on which tokens and at which positions it fires.

    Args:
        codes: of one SAE.
        stream: the tokens that they stand on.
        decode: text of a token.
        seed: for the column.
        top: tokens listed per latent.

    Columns: member, seed, latent, firings; top_tokens and top_shares (of its activation); rate_tokens, rates,
    rate_firings, rate_occurrences (tokens on which it fires most surely); token_entropy (nats), distinct_tokens;
    context_position (mean, tokens), context_first_share (of its firings, on a context's first token),
    context_entropy (of its positions, over that of all tokens: 1 is uniform), context_excess (nats above chance);
    document_early_share (of its firings, on a document's first 16 tokens), document_entropy, document_excess.
    """
    n, firings = codes.d_sae, codes.firings
    tables = token_tables(codes, stream, top=top)
    named = np.unique(np.concatenate([tables.by_mass, tables.by_rate]))
    words = {int(i): decode(int(i)) for i in named if i >= 0}
    within = np.arange(stream.n_tokens) % stream.context
    bins = min(stream.context, _CONTEXT_BINS)
    context_entropy, context_excess = _spread(codes, within * bins // stream.context)
    place = document_positions(stream)
    document_entropy, document_excess = _spread(codes, np.log2(place + 1).astype(np.int64))
    fired = np.maximum(firings, 1)
    full = np.where(firings > 0, 1.0, np.nan)
    position = sum_by(codes, within)
    first = counts_by(codes, (within == 0).astype(np.int64))[:, 1]
    early = counts_by(codes, (place < _EARLY_TOKENS).astype(np.int64))[:, 1]
    n_mass, n_rate = (tables.by_mass >= 0).sum(axis=1), (tables.by_rate >= 0).sum(axis=1)
    return pl.DataFrame(
        {
            "member": [codes.meta.member] * n,
            "seed": [seed] * n,
            "latent": np.arange(n),
            "firings": firings,
            "top_tokens": _lists(tables.by_mass, n_mass, words),
            "top_shares": _lists(tables.mass, n_mass),
            "rate_tokens": _lists(tables.by_rate, n_rate, words),
            "rates": _lists(tables.rate, n_rate),
            "rate_firings": _lists(tables.rate_firings, n_rate),
            "rate_occurrences": _lists(tables.rate_occurrences, n_rate),
            "token_entropy": tables.entropy * full,
            "distinct_tokens": tables.distinct,
            "context_position": position / fired * full,
            "context_first_share": first / fired * full,
            "context_entropy": context_entropy,
            "context_excess": context_excess,
            "document_early_share": early / fired * full,
            "document_entropy": document_entropy,
            "document_excess": document_excess,
        },
        schema_overrides={
            "top_tokens": pl.List(pl.String), "top_shares": pl.List(pl.Float64),
            "rate_tokens": pl.List(pl.String), "rates": pl.List(pl.Float64),
            "rate_firings": pl.List(pl.Int64), "rate_occurrences": pl.List(pl.Int64),
        },
    ).with_columns(pl.selectors.float().fill_nan(None))  # fmt: skip


def document_positions(stream: TokenStream) -> Int64[ndarray, " tokens"]:
    """Return how many tokens of its document stand before each token."""
    first = stream.documents["start"].to_numpy()
    return np.arange(stream.n_tokens) - first[np.asarray(stream.document)]


def _spread(
    codes: Codes, kind: Int64[ndarray, " tokens"]
) -> tuple[Float64[ndarray, " latents"], Float64[ndarray, " latents"]]:
    """Return the entropy of each latent's firings over kinds of position, over that of all tokens, and its excess.

    The excess is the divergence from all tokens less what as many random firings would show, in nats; both are
    NaN for a latent that never fires.
    """
    every = np.bincount(kind)
    share = every / every.sum()
    counts = counts_by(codes, kind)
    n = counts.sum(axis=1)
    p = counts / np.maximum(n, 1)[:, None]
    logs = np.log(np.where(p > 0, p, 1.0))
    most = -float((share[share > 0] * np.log(share[share > 0])).sum())
    entropy = -(p * logs).sum(axis=1) / (most if most > 0 else 1.0)
    divergence = (p * (logs - np.log(np.where(share > 0, share, 1.0)))).sum(axis=1)
    chance = ((every > 0).sum() - 1) / (2 * np.maximum(n, 1))
    fired = np.where(n > 0, 1.0, np.nan)
    return entropy * fired, (divergence - chance) * fired


def _lists(
    table: ndarray, lengths: Int64[ndarray, " latents"], words: dict[int, str] | None = None
) -> list[list[object]]:
    rows = [row[:length] for row, length in zip(table.tolist(), lengths.tolist(), strict=True)]
    return rows if words is None else [[words[i] for i in row] for row in rows]
