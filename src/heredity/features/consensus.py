"""Consensus features of a member: what most of its SAEs find, from seeds that share nothing.

Two latents of two seeds are linked when each is the other's best match, with r ≥ τ. Links are taken by falling
r; two clusters are joined unless one seed is in both, so a cluster has at most one latent of each seed. A
cluster with latents of more than half of the seeds is a consensus feature. It is represented by its medoid, the
latent with the largest Σ r over its links within the cluster (of equals, the one that fires more often): a real
latent with a real decoder row, where a mean of rows would be one that no one trained.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from jaxtyping import Bool, Float64, Int64
from msgspec import Struct
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.features.codes import Codes
from heredity.features.verdicts import Comparison
from heredity.kernels import sparse

LEAST_SEEDS = 3
"""With fewer, most seeds are all of them, and none is left to test what the others agree on."""


class Links(Struct, frozen=True, eq=False):
    """Pairs of latents of different seeds that find each other.

    Attributes:
        seed: [links, 2].
        latent: [links, 2].
        r: their correlation.
    """

    seed: Int64[ndarray, "links 2"]
    latent: Int64[ndarray, "links 2"]
    r: Float64[ndarray, " links"]


class Consensus(Struct, frozen=True, eq=False):
    """The consensus features of some seeds of one member, the surest first.

    Attributes:
        seeds: the seeds that were asked.
        latents: latent of each feature in each seed; −1 where a seed does not find it [features, seeds].
        r: mean r of the links within each feature.
        medoid_seed, medoid: seed and latent that stand for the feature.
    """

    seeds: tuple[int, ...]
    latents: Int64[ndarray, "features seeds"]
    r: Float64[ndarray, " features"]
    medoid_seed: Int64[ndarray, " features"]
    medoid: Int64[ndarray, " features"]

    @property
    def needed(self) -> int:
        """Seeds that must find a feature."""
        return majority(len(self.seeds))

    def found_by(self) -> Int64[ndarray, " features"]:
        """Count the seeds that find each feature."""
        count: Int64[ndarray, " features"] = (self.latents >= 0).sum(axis=1)
        return count

    def of_seed(self, seed: int) -> Int64[ndarray, " n"]:
        """Return the latents of one seed that are part of a consensus feature."""
        column = self.latents[:, self.seeds.index(seed)]
        return column[column >= 0]


def majority(seeds: int) -> int:
    """Return the least number that is more than half of the seeds."""
    return seeds // 2 + 1


def links(comparisons: Sequence[tuple[int, int, Comparison]]) -> Links:
    """Collect the links of a member's seeds from the comparisons (seed, other seed, what came out)."""
    seeds, latents, scores = [], [], []
    for s, t, both in comparisons:
        a, b = both.parent, both.child
        own = np.flatnonzero(a.persists)
        other = a.match[own]
        mutual = (b.match[other] == own) & b.eligible[other]
        own, other = own[mutual], other[mutual]
        seeds.append(np.tile([s, t], (len(own), 1)))
        latents.append(np.column_stack([own, other]))
        scores.append(a.match_r[own])
    return Links(np.concatenate(seeds), np.concatenate(latents), np.concatenate(scores))


def consensus(found: Links, seeds: Sequence[int], firings: Sequence[Int64[ndarray, " latents"]]) -> Consensus:
    """Cluster the latents of some seeds and keep what most of them find.

    Args:
        found: links of the member; those of other seeds are left out.
        seeds: which to ask, in rising order.
        firings: of every latent, by seed of the member.
    """
    use = np.isin(found.seed, seeds).all(axis=1)
    seed, latent, r = found.seed[use], found.latent[use], found.r[use]
    order = np.lexsort((latent[:, 1], latent[:, 0], seed[:, 1], seed[:, 0], -r))
    ends = [((int(s), int(i)), (int(t), int(j))) for (s, t), (i, j) in zip(seed, latent, strict=True)]
    home = _joined([ends[n] for n in order], len(firings))
    strength = dict.fromkeys(home, 0.0)
    inside: dict[int, list[float]] = {}
    for n in order:
        one, other = ends[n]
        if home[one] is home[other]:
            strength[one] += float(r[n])
            strength[other] += float(r[n])
            inside.setdefault(id(home[one]), []).append(float(r[n]))
    features = []
    for cluster in {id(c): c for c in home.values()}.values():
        nodes = [(s, i) for s, i in enumerate(cluster) if i >= 0]
        if len(nodes) >= majority(len(seeds)):
            medoid = max(nodes, key=lambda node: (strength[node], int(firings[node[0]][node[1]]), -node[0]))
            features.append((-float(np.mean(inside[id(cluster)])), medoid, [cluster[s] for s in seeds]))
    features.sort()
    return Consensus(
        tuple(seeds),
        np.array([c for *_, c in features], np.int64).reshape(len(features), len(seeds)),
        -np.array([r for r, *_ in features], np.float64),
        np.array([m[0] for _, m, _ in features], np.int64),
        np.array([m[1] for _, m, _ in features], np.int64),
    )


def gathered(codes: Sequence[Codes], seeds: Int64[ndarray, " n"], latents: Int64[ndarray, " n"]) -> Codes:
    """Return the codes of latents of several SAEs of one member as if they were one SAE (its seed is −1).

    Args:
        codes: by seed.
        seeds, latents: which ones; latent n of the result is latents[n] of codes[seeds[n]].

    Raises:
        ConfigError: no latents.
    """
    if not len(latents):
        raise ConfigError(f"{codes[0].meta.member}: no latents to gather", "lower τ, or train better SAEs")
    parts = [codes[s].of_latent(int(i)) for s, i in zip(seeds, latents, strict=True)]
    starts = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(tokens) for tokens, _ in parts], out=starts[1:])
    tokens = np.concatenate([tokens for tokens, _ in parts])
    values = np.concatenate([values for _, values in parts])
    meta = msgspec.structs.replace(codes[0].meta, seed=-1, d_sae=len(parts))
    indptr, own, places = sparse.by_latent(
        starts, tokens, meta.n_tokens
    )  # the same turn, the other way round
    kind = np.uint16 if meta.d_sae <= 1 << 16 else np.uint32
    return Codes(meta, indptr, own.astype(kind), values[places], starts, tokens, values)


def shares(one: Consensus, eligible: Sequence[Bool[ndarray, " latents"]]) -> dict[int, float]:
    """Return, for each seed, the share of its eligible latents that are part of a consensus feature."""
    return {s: len(one.of_seed(s)) / max(1, int(eligible[s].sum())) for s in one.seeds}


_Node = tuple[int, int]


def _joined(ends: Sequence[tuple[_Node, _Node]], n_seeds: int) -> dict[_Node, list[int]]:
    """Join nodes (seed, latent) link by link; return each one's cluster, its latent per seed or −1."""
    home: dict[_Node, list[int]] = {}
    for pair in ends:
        for s, i in pair:
            if (s, i) not in home:
                home[s, i] = [-1] * n_seeds
                home[s, i][s] = i
        one, other = home[pair[0]], home[pair[1]]
        if one is other or any(i >= 0 and j >= 0 for i, j in zip(one, other, strict=True)):
            continue
        for s, i in enumerate(other):
            if i >= 0:
                one[s] = i
                home[s, i] = one
    return home
