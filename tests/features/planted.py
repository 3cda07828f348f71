"""Planted streams, codes and families for the tests: what is in them is known."""

import numpy as np
import polars as pl

from heredity.corpora.tokens import TokenStream
from heredity.features.codes import Codes, CodesMeta
from heredity.features.sae._variant import Sparse
from heredity.seeds import generator

CONTEXT = 32


def stream(domains=("plays", "python"), documents=20, contexts=10, vocabulary=100, seed=0) -> TokenStream:
    """Equal documents of whole contexts in every domain, random tokens."""
    length = contexts * CONTEXT
    rows, at = [], 0
    for domain in domains:
        for _ in range(documents):
            rows.append((len(rows), f"{domain}/{len(rows)}", domain, at, at + length))
            at += length
    table = pl.DataFrame(
        rows,
        schema={
            "document": pl.Int32,
            "key": pl.String,
            "domain": pl.String,
            "start": pl.Int64,
            "stop": pl.Int64,
        },
        orient="row",
    )
    tokens = generator(seed, "tokens").integers(0, vocabulary, at).astype(np.uint16)
    return TokenStream(tokens, table, context=CONTEXT, domains=tuple(domains), tokenizer_sha256="none")


def dense(tokens: TokenStream, latents: int, rate=0.02, seed=0) -> np.ndarray:
    """Independent latents [tokens, latents] that fire at a rate, with positive values."""
    draw = generator(seed, "dense")
    fires = draw.random((tokens.n_tokens, latents)) < rate
    return (fires * draw.uniform(0.5, 2.0, fires.shape)).astype(np.float32)


def codes(values: np.ndarray, tokens: TokenStream, member="base", seed=0) -> Codes:
    """Codes of a dense matrix."""
    token, latent = np.nonzero(values > 0)
    indptr = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.bincount(token, minlength=len(values)), out=indptr[1:])
    meta = CodesMeta(
        member=member, seed=seed, site="x:input", stream_digest=tokens.digest, context=tokens.context,
        n_tokens=len(values), d_sae=values.shape[1],
    )  # fmt: skip
    return Codes.of(meta, Sparse(indptr, latent.astype(np.int32), values[token, latent].astype(np.float32)))


def noisy(values: np.ndarray, amount: float, seed: int) -> np.ndarray:
    """The same firings with other heights."""
    draw = generator(seed, "noise")
    return (values * draw.uniform(1 - amount, 1 + amount, values.shape)).astype(np.float32)
