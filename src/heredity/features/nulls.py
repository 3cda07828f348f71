"""What persistence is measured against: a floor by chance, a ceiling by a second look at the same model.

Floor: the child's codes are shifted within each domain by a random multiple of the context length, which
keeps the domains, the rhythm of positions and every latent's own pattern, and breaks only what the two SAEs
share token by token. Each shift takes the next pair of seeds in turn, and a fresh keyed draw of the eligible
latents (`floor_share`): over 20 shifts every latent is expected to be measured several times; the sampling
error is stated. Latents that are not drawn do not compete for a partner, so the floors of the mutual and the
one-to-one matching err on the high side. Ceiling: two SAEs of one model from independent seeds, as if one were
the child of the other.

False-discovery rate at τ = floor(τ) / persist(τ): latents matched by chance, over latents matched. As in
target-decoy searches every latent counts as one that could be matched falsely, also those that truly are, so
the rate is, if anything, too high.  Source: Storey 2002 with π₀ = 1.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64
from msgspec import Struct
from numpy import ndarray

from heredity.errors import StoreError
from heredity.features.codes import Codes
from heredity.features.correlate import correlate
from heredity.features.matchings import NAMES, Name, match
from heredity.features.resample import Documents
from heredity.features.sae._variant import Sparse
from heredity.features.verdicts import Tracking, eligible, matched_curve, of_parts
from heredity.kernels import sparse
from heredity.seeds import generator


class Floor(Struct, frozen=True, eq=False):
    """Shares matched by chance.

    Attributes:
        curves: share matched at each τ of the grid, per shift [shifts, taus].
        one_to_one: the same for the other matchings.
        r: the best r of every latent measured, over all shifts.
        split: share that splits at the chosen τ, per shift.
    """

    curves: Float64[ndarray, "shifts taus"]
    one_to_one: dict[Name, Float64[ndarray, "shifts taus"]]
    r: Float64[ndarray, " n"]
    split: Float64[ndarray, " shifts"]

    @property
    def mean(self) -> Float64[ndarray, " taus"]:
        """Mean share over the shifts."""
        mean: Float64[ndarray, " taus"] = self.curves.mean(axis=0)
        return mean

    @property
    def p95(self) -> Float64[ndarray, " taus"]:
        """95th percentile over the shifts."""
        high: Float64[ndarray, " taus"] = np.percentile(self.curves, 95, axis=0)
        return high

    @property
    def error(self) -> Float64[ndarray, " taus"]:
        """Standard error of the mean: shifts, seeds and the draw of latents together."""
        spread: Float64[ndarray, " taus"] = self.curves.std(axis=0, ddof=1) / np.sqrt(len(self.curves))
        return spread

    def resampled(self, n: int, draw: np.random.Generator) -> Float64[ndarray, "n taus"]:
        """Return n means over shifts drawn with replacement."""
        picked = draw.integers(0, len(self.curves), (n, len(self.curves)))
        mean: Float64[ndarray, "n taus"] = self.curves[picked].mean(axis=1)
        return mean


def floor(
    left: Sequence[Codes],
    right: Sequence[Codes],
    documents: Documents,
    settings: Tracking,
    *,
    seed: int,
    name: str,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> Floor:
    """Measure how many latents of the left find a match in the right once the right is shifted.

    Args:
        left, right: one SAE's codes per seed.
        documents: of the stream.
        settings: τ grid, shifts, share of the latents per shift.
        seed, name: key of the draws.
        pairs: places in the two, taken in turn; all of them by default.

    Raises:
        StoreError: a domain is too short to be shifted.
    """
    taken = [(left[s], right[t]) for s, t in pairs] if pairs else [(a, b) for a in left for b in right]
    curves: dict[Name, list[Float64[ndarray, " taus"]]] = {kind: [] for kind in NAMES}
    seen, split, least = [], [], float(settings.taus[0])
    for shift in range(settings.shifts):
        a, b = taken[shift % len(taken)]
        draw = generator(seed, "floor", name, shift)
        rows = sampled(eligible(a, settings), settings.floor_share, draw)
        moved = rearranged(a, rows, shifted(documents, a.meta.context, draw))
        found = correlate(moved, b, top=settings.top, threshold=settings.split_tau, count_from=least)
        for kind in NAMES:
            r = match(kind, found.forward, found.backward, min_joint=settings.min_joint, least=least).r
            curves[kind].append(matched_curve(r, settings))
            if kind == "best":
                split.append(((r < settings.tau) & of_parts(found, settings)[0]).sum() / max(1, len(rows)))
        seen.append(found.forward.r[:, 0])
    first, *others = NAMES
    return Floor(
        np.array(curves[first]),
        {kind: np.array(curves[kind]) for kind in others},
        np.concatenate(seen),
        np.array(split),
    )


def false_discovery(
    persist: Float64[ndarray, " taus"],
    floor: Floor,
    resampled: tuple[Float64[ndarray, "resamples taus"], Float64[ndarray, "resamples taus"]] | None = None,
) -> tuple[Float64[ndarray, " taus"], Float64[ndarray, " taus"]]:
    """Return the false-discovery rate at each τ and its upper 95 % bound; NaN where nothing is matched.

    Args:
        persist: share matched.
        floor: by chance.
        resampled: persistence and floor in each resample. Where no latent of the n measured ones was matched by
            chance the bound is that of 3/n false ones (the rule of three).
    """
    some = persist > 0
    safe = np.where(some, persist, 1.0)
    rate = np.where(some, np.minimum(floor.mean / safe, 1.0), np.nan)
    high = np.full(len(persist), 3 / max(1, len(floor.r))) / safe
    if resampled is not None:
        drawn = resampled[1] / np.maximum(resampled[0], 1e-12)
        high = np.maximum(high, np.percentile(np.minimum(drawn, 1.0), 97.5, axis=0))
    return rate, np.where(some, np.minimum(high, 1.0), np.nan)


def rearranged(codes: Codes, rows: Int64[ndarray, " rows"], beside: Int32[ndarray, " tokens"]) -> Codes:
    """Return some latents as if what they do on token t they did on token beside[t]."""
    lengths = codes.firings[rows]
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    take = np.repeat(codes.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
    meta = msgspec.structs.replace(codes.meta, d_sae=len(rows))
    tokens, values = beside[codes.tokens[take]], codes.values_by_latent[take]
    indptr, latents, places = sparse.by_latent(starts, tokens, meta.n_tokens)  # by token, then back in order
    return Codes.of(meta, Sparse(indptr, latents, values[places]))


def sampled(
    can: Bool[ndarray, " latents"], share: float, draw: np.random.Generator
) -> Int64[ndarray, " rows"]:
    """Draw a share of the marked latents, at least one where there are any, in rising order."""
    names = np.flatnonzero(can)
    n = min(len(names), max(1, round(share * len(names))))
    return np.sort(draw.permutation(names)[:n])


def shifted(documents: Documents, context: int, draw: np.random.Generator) -> Int32[ndarray, " tokens"]:
    """Return which token stands beside each one after a shift within every domain.

    Raises:
        StoreError: a domain has fewer than two contexts.
    """
    domain = documents.domain[documents.of_token]
    out = np.arange(len(domain), dtype=np.int32)
    edges = np.flatnonzero(np.diff(domain)) + 1
    for start, stop in zip([0, *edges], [*edges, len(domain)], strict=True):
        blocks = (stop - start) // context
        if blocks < 2:
            raise StoreError(
                f"domain {documents.domains[domain[start]]!r} has {blocks} contexts of {context} tokens: "
                "nothing to shift it by",
                "give the comparison more tokens of it",
            )
        offset = int(draw.integers(1, blocks)) * context
        out[start:stop] = start + (np.arange(stop - start) + offset) % (stop - start)
    return out
