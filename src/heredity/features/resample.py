"""Intervals by resampling documents: every correlation and maximum is taken anew from per-document sums.

Documents are drawn with replacement within each domain, because the study fixes how much of each domain there
is. A resample is a row of weights, so a correlation in all resamples is a few matrix products over
per-document Σab of each latent's best candidates; a maximum outside those candidates is not seen. Candidates
other than the best one count from r = 0.2 on: below, none gets near a τ.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8
from msgspec import Struct
from numpy import ndarray

from heredity.blas import one_blas_thread
from heredity.corpora.tokens import TokenStream
from heredity.features.codes import Codes
from heredity.features.correlate import Candidates
from heredity.kernels import correlate as kernel
from heredity.seeds import generator

_ROOM_BYTES = 256 << 20
Z95 = 1.959964
NEAR = 0.2
"""Least r of a candidate, other than the best, that can become the best in a resample."""


class Documents(Struct, frozen=True, eq=False):
    """The documents of a stream.

    Attributes:
        of_token: document of each token.
        n_tokens: tokens of each document.
        domain: domain of each document.
        domains: names.
    """

    of_token: Int32[ndarray, " tokens"]
    n_tokens: Int64[ndarray, " documents"]
    domain: Int64[ndarray, " documents"]
    domains: tuple[str, ...]

    @classmethod
    def of(cls, stream: TokenStream) -> "Documents":
        """Read them off a stream; documents without a token are left out."""
        names, of_token = np.unique(np.asarray(stream.document), return_inverse=True)
        first = np.searchsorted(of_token, np.arange(len(names)))
        domain = np.asarray(stream.domain)[first].astype(np.int64)
        return cls(of_token.astype(np.int32), np.bincount(of_token).astype(np.int64), domain, stream.domains)

    def in_domain(self) -> dict[str, int]:
        """Count the documents of each domain."""
        return {name: int((self.domain == i).sum()) for i, name in enumerate(self.domains)}


class Totals(Struct, frozen=True, eq=False):
    """Σ and Σ² of every latent in every resample, [resamples, latents]."""

    total: Float64[ndarray, "resamples latents"]
    square: Float64[ndarray, "resamples latents"]


class Bounds(Struct, frozen=True, eq=False):
    """What resampling says about one side of a comparison.

    Attributes:
        low, high: of the best r of each latent: 2.5th and 97.5th percentile of the maxima; `high` is at least
            the Fisher bound with the contexts that the latent fires in as its sample, which keeps a latent of
            a few documents from looking surer than it is.
        shares: share of the eligible latents that is matched, per resample and τ [resamples, taus].
        bits: whether each latent is matched at the chosen τ, per resample; eight to a byte.
    """

    low: Float64[ndarray, " latents"]
    high: Float64[ndarray, " latents"]
    shares: Float64[ndarray, "resamples taus"]
    bits: UInt8[ndarray, "resamples bytes"]

    def matched(self, latents: Int64[ndarray, " n"]) -> Bool[ndarray, "resamples n"]:
        """Say whether each of some latents is matched at the chosen τ in each resample."""
        place = (7 - latents % 8).astype(np.uint8)  # packed from the highest bit down
        found: Bool[ndarray, "resamples n"] = (self.bits[:, latents // 8] >> place) & 1 == 1
        return found


class Resampler:
    """The same resamples of the documents for every comparison of a study."""

    def __init__(self, documents: Documents, *, resamples: int, seed: int) -> None:
        self.documents = documents
        self.weights = np.zeros((resamples, len(documents.n_tokens)))
        for number, name in enumerate(documents.domains):
            own = np.flatnonzero(documents.domain == number)
            if len(own):
                draw = generator(seed, "resample documents", name)
                self.weights[:, own] = draw.multinomial(
                    len(own), np.full(len(own), 1 / len(own)), size=resamples
                )
        self.n_tokens = self.weights @ documents.n_tokens.astype(np.float64)

    def totals(self, codes: Codes) -> Totals:
        """Return every latent's sums in every resample."""
        shape = (len(self.documents.n_tokens), codes.d_sae)
        total, square = np.zeros(shape), np.zeros(shape)
        kernel.group_sums(
            codes.starts, codes.tokens, codes.values_by_latent, self.documents.of_token, total, square
        )
        with one_blas_thread():  # the last bits of a product depend on how many there are
            return Totals(self.weights @ total, self.weights @ square)

    def pairs(
        self, a: Codes, b: Codes, first: Int64[ndarray, " n"], second: Int64[ndarray, " n"]
    ) -> Float64[ndarray, "resamples n"]:
        """Return r of given pairs of latents of a and b in every resample; 0 where one of the two never varies."""
        n_documents, out = self.weights.shape[1], np.empty((len(self.weights), len(first)))
        of_a, of_b = self.totals(a), self.totals(b)
        part = max(1, _ROOM_BYTES // (8 * max(n_documents, len(self.weights))))
        for start in range(0, len(first), part):
            i, j = first[start : start + part].astype(np.int64), second[start : start + part].astype(np.int64)
            sums = np.zeros((n_documents, len(i)))
            kernel.pair_sums(
                i, j, a.starts, a.tokens, a.values_by_latent, b.starts, b.tokens, b.values_by_latent,
                self.documents.of_token, sums,
            )  # fmt: skip
            with one_blas_thread():
                products = self.weights @ sums
            n = self.n_tokens[:, None]
            spread = products - of_a.total[:, i] * of_b.total[:, j] / n
            squares = of_a.square[:, i] - np.square(of_a.total[:, i]) / n
            squares *= of_b.square[:, j] - np.square(of_b.total[:, j]) / n
            alive = squares > 1e-12 * np.maximum(of_a.square[:, i] * of_b.square[:, j], 1e-300)
            out[:, start : start + part] = np.where(alive, spread / np.sqrt(np.where(alive, squares, 1)), 0.0)
        return out

    def bounds(
        self,
        a: Codes,
        b: Codes,
        a_totals: Totals,
        b_totals: Totals,
        candidates: Candidates,
        *,
        eligible: Bool[ndarray, " latents"],
        min_joint: int,
        taus: Float64[ndarray, " taus"],
        at: int,
    ) -> Bounds:
        """Resample the best r of every latent of a among its candidates in b; `at` is the chosen τ's place."""
        n_latents, top = candidates.latent.shape
        n_documents, n_resamples = self.weights.shape[1], len(self.weights)
        low, high = np.zeros(n_latents), np.zeros(n_latents)
        matched = np.zeros((n_resamples, len(taus)))
        bits = np.zeros((n_resamples, -(-n_latents // 8)), np.uint8)
        part = 8 * max(1, _ROOM_BYTES // (64 * top * max(n_documents, n_resamples)))
        for start in range(0, n_latents, part):
            stop = min(start + part, n_latents)
            first = np.repeat(np.arange(start, stop), top)
            near = candidates.r[start:stop] >= NEAR
            near[:, 0] = True
            second = np.where(near, candidates.latent[start:stop], -1).ravel().astype(np.int64)
            joint_ok = candidates.joint[start:stop].ravel() >= min_joint
            sums = np.zeros((n_documents, len(first)))
            kernel.pair_sums(
                first, second, a.starts, a.tokens, a.values_by_latent, b.starts, b.tokens, b.values_by_latent,
                self.documents.of_token, sums,
            )  # fmt: skip
            best, best_joint = np.empty((n_resamples, stop - start)), np.empty((n_resamples, stop - start))
            with one_blas_thread():
                products = self.weights @ sums
            kernel.resampled_best(
                products, first, second, joint_ok, top, self.n_tokens,
                a_totals.total, a_totals.square, b_totals.total, b_totals.square, best, best_joint,
            )  # fmt: skip
            low[start:stop], high[start:stop] = np.percentile(best, [2.5, 97.5], axis=0)
            bits[:, start // 8 : -(-stop // 8)] = np.packbits(best_joint >= taus[at], axis=1)
            own = best_joint[:, eligible[start:stop]]
            for t, tau in enumerate(taus):
                matched[:, t] += (own >= tau).sum(axis=1)
        fisher = fisher_high(candidates.r[:, 0], contexts_fired(a))
        return Bounds(low, np.maximum(high, fisher), matched / max(1, int(eligible.sum())), bits)


def contexts_fired(codes: Codes) -> Int64[ndarray, " latents"]:
    """Count the contexts in which each latent fires at least once."""
    context = codes.tokens // codes.meta.context
    new = np.ones(len(context), np.int64)
    new[1:] = context[1:] != context[:-1]
    full = np.flatnonzero(codes.firings)
    new[codes.starts[full]] = 1
    out = np.zeros(codes.d_sae, np.int64)
    if len(full):
        out[full] = np.add.reduceat(new, codes.starts[full])
    return out


def fisher_high(r: Float64[ndarray, " n"], sample: Int64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    """Return the upper 95 % bound of correlations by Fisher's z; 1 for samples of 3 or fewer."""
    z = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)) + Z95 / np.sqrt(np.maximum(sample - 3, 1))
    return np.where(sample > 3, np.tanh(z), 1.0)
