"""What latents stand for: where they fire most, on which tokens, in which domains."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64
from numpy import ndarray

from heredity.corpora.tokens import TokenStream
from heredity.features.codes import Codes
from heredity.features.firings import counts_by, token_tables

Decode = Callable[[int], str]
"""Text of one token, by its number."""

_TOP_TOKENS = 8


def latents_table(
    codes: Codes, stream: TokenStream, decode: Decode, *, seed: int, min_firings: int = 50
) -> pl.DataFrame:
    """Describe every latent of one SAE.

    Columns: member, seed, latent, firings, firing_rate, rare, dead, mean_activation (over its firings),
    top_tokens (by summed activation), domain_share (of its firings, one number per domain in the stream's
    order), domains.
    """
    firings = codes.firings
    domain = domain_shares(codes, stream)
    top = token_tables(codes, stream, top=_TOP_TOKENS).by_mass.tolist()
    n = codes.d_sae
    return pl.DataFrame(
        {
            "member": [codes.meta.member] * n,
            "seed": [seed] * n,
            "latent": np.arange(n),
            "firings": firings,
            "firing_rate": firings / codes.n_tokens,
            "rare": (firings > 0) & (firings < min_firings),
            "dead": firings == 0,
            "mean_activation": codes.sums / np.maximum(firings, 1),
            "top_tokens": [[decode(t) for t in tokens if t >= 0] for tokens in top],
            "domain_share": domain.tolist(),
            "domains": [list(stream.domains)] * n,
        },
        schema_overrides={"top_tokens": pl.List(pl.String), "domain_share": pl.List(pl.Float64)},
    )


def domain_shares(codes: Codes, stream: TokenStream) -> Float64[ndarray, "latents domains"]:
    """Return how each latent's firings spread over the domains; 0 throughout for one that never fires."""
    counts = counts_by(codes, np.asarray(stream.domain))
    counts = np.pad(counts, ((0, 0), (0, len(stream.domains) - counts.shape[1])))
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def contexts_table(
    codes: Codes,
    stream: TokenStream,
    decode: Decode,
    latents: Sequence[int],
    *,
    seed: int,
    contexts: int = 5,
    before: int = 12,
    after: int = 6,
) -> pl.DataFrame:
    """Show where latents fire most: the strongest firing of each of the strongest blocks.

    Args:
        codes: of one SAE.
        stream: the tokens that they stand on.
        decode: text of a token.
        latents: which.
        seed: for the column.
        contexts: rows per latent; of one document at most half of them, where there are others.
        before, after: tokens shown on each side of the peak, inside its block.

    Columns: member, seed, latent, rank, domain, document, position (of the peak in the stream), tokens,
    activations, peak.
    """
    document, domain, text = np.asarray(stream.document), np.asarray(stream.domain), np.asarray(stream.tokens)
    rows = []
    for latent in latents:
        tokens, values = codes.of_latent(latent)
        tokens = tokens.astype(np.int64)
        for rank, peak in enumerate(_peaks(tokens, values, stream.context, document, contexts)):
            block = tokens[peak] // stream.context * stream.context
            start = max(block, tokens[peak] - before)
            stop = min(block + stream.context, tokens[peak] + after + 1)
            shown = np.zeros(stop - start, np.float32)
            inside = slice(*np.searchsorted(tokens, [start, stop]))
            shown[tokens[inside] - start] = values[inside]
            rows.append(
                {
                    "member": codes.meta.member, "seed": seed, "latent": int(latent), "rank": rank,
                    "domain": stream.domains[domain[tokens[peak]]],
                    "document": stream.document_keys[document[tokens[peak]]],
                    "position": int(tokens[peak]),
                    "tokens": [decode(int(t)) for t in text[start:stop]],
                    "activations": shown.tolist(),
                    "peak": float(values[peak]),
                }
            )  # fmt: skip
    schema: dict[str, Any] = {
        "member": pl.String, "seed": pl.Int64, "latent": pl.Int64, "rank": pl.Int64, "domain": pl.String,
        "document": pl.String, "position": pl.Int64, "tokens": pl.List(pl.String),
        "activations": pl.List(pl.Float32), "peak": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def _peaks(
    tokens: Int64[ndarray, " n"], values: ndarray, context: int, document: ndarray, n: int
) -> list[int]:
    """Pick the strongest firing of the strongest blocks, spread over documents as far as there are others."""
    order = np.lexsort((tokens, -values))
    taken: list[int] = []
    spare: list[int] = []
    blocks: set[int] = set()
    of_document: dict[int, int] = {}
    for at in order[: 64 * n]:
        block, name = int(tokens[at]) // context, int(document[tokens[at]])
        if block in blocks:
            continue
        blocks.add(block)
        if of_document.get(name, 0) >= max(1, n // 2):
            spare.append(int(at))
            continue
        of_document[name] = of_document.get(name, 0) + 1
        taken.append(int(at))
        if len(taken) == n:
            break
    chosen = (taken + spare)[:n]
    return sorted(chosen, key=lambda at: (-float(values[at]), int(tokens[at])))
