"""Consensus features along a family's edges: what most seeds of the parent agree on, looked for in the child.

Found, floor and ceiling ask one question of one kind of pool. The seeds of a member but one agree on some
features; the share of them that a further SAE finds (their medoid has a match there with r ≥ τ) is

- the **ceiling** when that SAE is the member's own seed that was left out (mean over the seeds left out; of an
  edge, the geometric mean of its two ends),
- **found** when it is an SAE of the child (mean over the seeds left out and the child's seeds),
- the **floor** when the child's codes are shifted within domains.

heritability = (found − floor) / (ceiling − floor), its interval from documents and seeds drawn anew with the
clusters held fixed. All of it comes from comparisons that the lineage makes anyway; only the floor, and the
verdicts below, correlate anew. Which features **persist**, **vanish**, **emerge** is judged between the
consensus of all seeds of the parent and that of the child, medoid against medoid, by the rules of `verdicts`.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64
from msgspec import Struct
from numpy import ndarray

from heredity.features.codes import Codes
from heredity.features.consensus import LEAST_SEEDS, Consensus, Links, consensus, gathered, links, shares
from heredity.features.lineage import Lineage, heritability, some_weight
from heredity.features.nulls import Floor, floor
from heredity.features.verdicts import Comparison, compare, eligible
from heredity.seeds import generator


class Found(Struct, frozen=True, eq=False):
    """A share of consensus features found in a further SAE.

    Attributes:
        each: per SAE that was asked.
        share: mean over them.
        resampled: the mean in each resample of documents and seeds.
    """

    each: list[float]
    share: float
    resampled: Float64[ndarray, " resamples"]

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        low, high = np.percentile(self.resampled, [2.5, 97.5])
        return float(low), float(high)


class ConsensusLineage:
    """The consensus features of every member, and of every edge; each measured when first asked for.

    Attributes:
        lineage: the comparisons between SAEs.
        members: those with enough seeds.
        edges: those between them.
    """

    def __init__(self, lineage: Lineage) -> None:
        self.lineage = lineage
        self.members = [name for name, codes in lineage.members.items() if len(codes) >= LEAST_SEEDS]
        self.edges = [edge for edge in lineage.edges if all(end in self.members for end in edge)]
        self._links: dict[str, Links] = {}
        self._consensus: dict[tuple[str, int | None], Consensus] = {}
        self._codes: dict[tuple[str, int | None], Codes] = {}
        self._ceilings: dict[str, Found] = {}
        self._comparisons: dict[tuple[str, str], Comparison] = {}

    def of(self, member: str, without: int | None = None) -> Consensus:
        """Return the consensus of a member's seeds, or of all but one."""
        key = member, without
        if key not in self._consensus:
            codes = self.lineage.members[member]
            if member not in self._links:
                pairs = [(s, t) for s in range(len(codes)) for t in range(s + 1, len(codes))]
                self._links[member] = links(
                    [(s, t, self.lineage.comparison(member, s, member, t)) for s, t in pairs]
                )
            seeds = [s for s in range(len(codes)) if s != without]
            self._consensus[key] = consensus(self._links[member], seeds, [c.firings for c in codes])
        return self._consensus[key]

    def codes(self, member: str, without: int | None = None) -> Codes | None:
        """Return the medoids' codes; None where no feature is agreed on."""
        one = self.of(member, without)
        if not len(one.medoid):
            return None
        key = member, without
        if key not in self._codes:
            self._codes[key] = gathered(self.lineage.members[member], one.medoid_seed, one.medoid)
        return self._codes[key]

    def ceiling(self, member: str) -> Found:
        """Return the share of what all seeds but one agree on that the one left out finds."""
        if member not in self._ceilings:
            seeds = range(len(self.lineage.members[member]))
            self._ceilings[member] = self._mean(
                [self._found(member, h, member, h) for h in seeds], self.lineage.seed_draws(member)
            )
        return self._ceilings[member]

    def found(self, member: str, other: str) -> Found:
        """Return the share of what all seeds of a member but one agree on that SAEs of another find."""
        left_out, asked = (range(len(self.lineage.members[name])) for name in (member, other))
        own, their = self.lineage.seed_draws(member), self.lineage.seed_draws(other)
        # Where seeds share a start, the other's SAE is asked that goes back to the seed left out, and to no other.
        pairs = [(h, t) for h in left_out for t in asked if h == t or not self.lineage.shared_start]
        weight = some_weight(np.array([own[:, h] * their[:, t] for h, t in pairs]).T)
        return self._mean([self._found(member, h, other, t) for h, t in pairs], weight)

    def floor(self, parent: str, child: str) -> Floor | None:
        """Return the same share with the child's codes shifted; None where the parent agrees on nothing."""
        seeds = range(len(self.lineage.members[parent]))
        left = [codes for codes in (self.codes(parent, h) for h in seeds) if codes is not None]
        if not left:
            return None
        return floor(
            left, self.lineage.members[child], self.lineage.documents, self.lineage.settings,
            seed=self.lineage.seed, name=f"consensus {parent}/{child}",
        )  # fmt: skip

    def comparison(self, parent: str, child: str) -> Comparison | None:
        """Judge every consensus feature of two members; None where one has none."""
        a, b = self.codes(parent), self.codes(child)
        if a is None or b is None:
            return None
        key = parent, child
        if key not in self._comparisons:
            resampler = self.lineage.resampler
            self._comparisons[key] = compare(
                a, b, resampler.totals(a), resampler.totals(b), resampler, self.lineage.settings
            )
        return self._comparisons[key]

    @cached_property
    def tables(self) -> dict[str, pl.DataFrame]:
        """The tables `consensus`, `consensus_latents`, `consensus_edges` and `consensus_matches`."""
        members = [row for name in self.members for row in _member(self, name)]
        latents = [table for name in self.members for table in _latents(self, name)]
        edges = [_edge(self, *edge) for edge in self.edges]
        matches = [table for edge in self.edges for table in _matches(self, *edge)]
        return {
            "consensus": pl.DataFrame(members, schema=_MEMBER),
            "consensus_latents": pl.concat([pl.DataFrame(schema=_LATENT), *latents]),
            "consensus_edges": pl.DataFrame(edges, schema=_EDGE),
            "consensus_matches": pl.concat([pl.DataFrame(schema=_MATCH), *matches]),
        }

    def _found(self, member: str, without: int, other: str, t: int) -> tuple[float, Float64[ndarray, " n"]]:
        """Return the share of a consensus that one SAE finds, and that share in each resample."""
        one, n_resamples = self.of(member, without), self.lineage.settings.resamples
        hits, drawn = 0, np.zeros(n_resamples)
        for s in one.seeds:
            medoids = one.medoid[one.medoid_seed == s]
            if len(medoids):
                side = self.lineage.side(member, s, other, t)
                hits += int(side.persists[medoids].sum())
                drawn += side.bounds.matched(medoids).sum(axis=1)
        n = max(1, len(one.medoid))
        return hits / n, drawn / n

    def _mean(self, parts: Sequence[tuple[float, ndarray]], weight: Float64[ndarray, "n k"]) -> Found:
        each = [share for share, _ in parts]
        drawn = np.stack([shares for _, shares in parts], axis=1)
        return Found(each, float(np.mean(each)), (drawn * weight).sum(axis=1) / weight.sum(axis=1))


_MEMBER = {
    "member": pl.String, "held_out": pl.Int64, "n_seeds": pl.Int64, "needed": pl.Int64,
    "n_features": pl.Int64, "share_of_latents": pl.Float64, "share_min": pl.Float64, "share_max": pl.Float64,
    "found": pl.Float64, "found_low": pl.Float64, "found_high": pl.Float64,
}  # fmt: skip
_LATENT = {
    "member": pl.String, "feature": pl.Int64, "seed": pl.Int64, "latent": pl.Int64, "medoid": pl.Boolean,
    "found_by": pl.Int64, "r": pl.Float64,
}  # fmt: skip
_SHARES = (
    "found", "found_low", "found_high", "found_child", "floor", "floor_p95", "ceiling", "ceiling_low",
    "ceiling_high", "heritability", "heritability_low", "heritability_high", "persist", "persist_low",
    "persist_high", "vanish", "undecided", "persist_child", "emerge", "emerge_undecided",
)  # fmt: skip
_EDGE = {
    "parent": pl.String, "child": pl.String, "tau": pl.Float64, "n_parent": pl.Int64, "n_child": pl.Int64,
    **dict.fromkeys(_SHARES, pl.Float64), "decided_by": pl.String,
}  # fmt: skip
_MATCH = {
    "parent": pl.String, "child": pl.String, "side": pl.String, "feature": pl.Int64, "partner": pl.Int64,
    "r": pl.Float64, "low": pl.Float64, "high": pl.Float64, "verdict": pl.String,
}  # fmt: skip


def _member(family: ConsensusLineage, name: str) -> list[dict[str, Any]]:
    """One row for all seeds, one for each seed left out."""
    lineage, rows = family.lineage, []
    judged = [eligible(codes, lineage.settings) for codes in lineage.members[name]]
    ceiling = family.ceiling(name)
    for held_out in (None, *range(len(judged))):
        one = family.of(name, held_out)
        part = list(shares(one, judged).values())
        row = {
            "member": name, "held_out": held_out, "n_seeds": len(one.seeds), "needed": one.needed,
            "n_features": len(one.medoid), "share_of_latents": float(np.mean(part)), "share_min": min(part),
            "share_max": max(part),
        }  # fmt: skip
        if len(one.medoid):
            row["found"] = ceiling.share if held_out is None else ceiling.each[held_out]
            if held_out is None:
                row["found_low"], row["found_high"] = ceiling.interval
        rows.append(row)
    return rows


def _latents(family: ConsensusLineage, name: str) -> list[pl.DataFrame]:
    one = family.of(name)
    feature, place = np.nonzero(one.latents >= 0)
    seed, latent = np.array(one.seeds)[place], one.latents[feature, place]
    table = pl.DataFrame({
        "member": [name] * len(feature), "feature": feature, "seed": seed, "latent": latent,
        "medoid": (one.medoid_seed[feature] == seed) & (one.medoid[feature] == latent),
        "found_by": one.found_by()[feature], "r": one.r[feature],
    }, schema=_LATENT)  # fmt: skip
    return [table]


def _edge(family: ConsensusLineage, parent: str, child: str) -> dict[str, Any]:
    lineage = family.lineage
    found, back = family.found(parent, child), family.found(child, parent)
    ends = family.ceiling(parent), family.ceiling(child)
    ceiling = float(np.sqrt(ends[0].share * ends[1].share))
    drawn = np.sqrt(ends[0].resampled * ends[1].resampled)
    low, high = found.interval
    row: dict[str, Any] = {
        "parent": parent, "child": child, "tau": lineage.settings.tau,
        "n_parent": len(family.of(parent).medoid), "n_child": len(family.of(child).medoid),
        "found": found.share, "found_low": low, "found_high": high, "found_child": back.share,
        "ceiling": ceiling, "ceiling_low": float(np.percentile(drawn, 2.5)),
        "ceiling_high": float(np.percentile(drawn, 97.5)), "decided_by": _DECIDED,
    }  # fmt: skip
    lineage.progress(f"{parent} → {child}: consensus features")
    chance = family.floor(parent, child)
    if chance is not None:
        at = lineage.settings.at
        draw = generator(lineage.seed, "resample consensus shifts", parent, child)
        by_chance = chance.resampled(lineage.settings.resamples, draw)[:, at]
        row["floor"], row["floor_p95"] = float(chance.mean[at]), float(chance.p95[at])
        row["heritability"], row["heritability_low"], row["heritability_high"] = heritability(
            (found.share, found.resampled), (row["floor"], by_chance), (ceiling, drawn)
        )
    both = family.comparison(parent, child)
    if both is not None:
        a, b = both.parent, both.child
        low, high = np.percentile(a.bounds.shares[:, lineage.settings.at], [2.5, 97.5])
        row |= {
            "persist": a.share(a.persists), "persist_low": float(low), "persist_high": float(high),
            "vanish": a.share(a.disappears), "undecided": a.share(a.undecided),
            "persist_child": b.share(b.persists), "emerge": b.share(b.disappears),
            "emerge_undecided": b.share(b.undecided),
        }  # fmt: skip
    return row


_DECIDED = "documents and seeds resampled with the clusters held fixed; persist: documents"


def _matches(family: ConsensusLineage, parent: str, child: str) -> list[pl.DataFrame]:
    both = family.comparison(parent, child)
    if both is None:
        return []
    tables = []
    for name, side, gone in (("parent", both.parent, "vanishes"), ("child", both.child, "emerges")):
        n = len(side.best_r)
        verdict = np.where(side.persists, "persists", np.where(side.disappears, gone, "undecided"))
        partner = np.where(side.persists, side.match, side.candidates.latent[:, 0])
        tables.append(pl.DataFrame({
            "parent": [parent] * n, "child": [child] * n, "side": [name] * n, "feature": np.arange(n),
            "partner": partner.astype(np.int64), "r": np.where(side.persists, side.match_r, side.best_r),
            "low": side.bounds.low, "high": side.bounds.high, "verdict": verdict,
        }, schema=_MATCH).with_columns(pl.when(pl.col("partner") >= 0).then("partner")))  # fmt: skip
    return tables
