"""Firings counted: every latent's, by vocabulary entry and by kind of token."""

import numpy as np
from jaxtyping import Float64, Int, Int64, Real
from msgspec import Struct
from numpy import ndarray

from heredity.corpora.tokens import TokenStream
from heredity.features.codes import Codes
from heredity.kernels import latents as kernels


class TokenTables(Struct, frozen=True, eq=False):
    """Each latent's first tokens; where it has fewer, −1 and 0.

    Attributes:
        by_mass: vocabulary entries by falling sum of activation.
        mass: their share of the latent's activation, in [0, 1].
        by_rate: vocabulary entries by the falling lower bound (Wilson, 95 %) of P(fires | entry).
        rate: their P(fires | entry).
        rate_firings, rate_occurrences: the counts behind it.
        entropy: of the activation over vocabulary entries, nats.
        distinct: entries on which it fires at all.
    """

    by_mass: Int64[ndarray, "latents top"]
    mass: Float64[ndarray, "latents top"]
    by_rate: Int64[ndarray, "latents top"]
    rate: Float64[ndarray, "latents top"]
    rate_firings: Int64[ndarray, "latents top"]
    rate_occurrences: Int64[ndarray, "latents top"]
    entropy: Float64[ndarray, " latents"]
    distinct: Int64[ndarray, " latents"]


def token_tables(codes: Codes, stream: TokenStream, *, top: int = 8) -> TokenTables:
    """Count every latent's firings by vocabulary entry and keep the first `top` of two orders."""
    identifiers = np.array(stream.tokens)  # a mapped array is read-only, another type to the kernel
    occurrences = np.bincount(identifiers)
    n = codes.d_sae
    by_mass, by_rate = np.full((n, top), -1), np.full((n, top), -1)
    mass, rate_firings = np.zeros((n, top)), np.zeros((n, top), np.int64)
    entropy, distinct = np.zeros(n), np.zeros(n, np.int64)
    kernels.token_tables(
        codes.starts, codes.tokens, codes.values_by_latent, identifiers, occurrences, by_mass, mass, by_rate,
        rate_firings, entropy, distinct,
    )  # fmt: skip
    seen = np.where(by_rate >= 0, occurrences[by_rate], 0)
    return TokenTables(
        by_mass=by_mass, mass=mass / np.where(codes.sums > 0, codes.sums, 1.0)[:, None], by_rate=by_rate,
        rate=rate_firings / np.maximum(seen, 1), rate_firings=rate_firings, rate_occurrences=seen,
        entropy=entropy, distinct=distinct,
    )  # fmt: skip


def counts_by(codes: Codes, kind: Int[ndarray, " tokens"]) -> Int64[ndarray, "latents kinds"]:
    """Count every latent's firings by the kind of their token, a number from 0 on."""
    n_kinds = int(kind.max()) + 1
    counts = np.zeros((codes.d_sae, n_kinds), np.int64)
    small = kind.astype(np.uint16 if n_kinds <= 1 << 16 else np.uint32)
    kernels.count_by(codes.starts, codes.tokens, small, counts)
    return counts


def sum_by(codes: Codes, quantity: Real[ndarray, " tokens"]) -> Float64[ndarray, " latents"]:
    """Sum a quantity of the tokens over every latent's firings."""
    sums = np.zeros(codes.d_sae)
    kernels.sum_by(codes.starts, codes.tokens, quantity.astype(np.float64), sums)
    return sums
