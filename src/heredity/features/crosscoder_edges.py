"""A crosscoder's word on every edge of a lineage beside correlation's, for all pairs of seeds.

Every SAE's latents are paired with the crosscoder's once; the pairs of an edge differ in correlation's word only.
Shares and agreement are of all pairs together. Two nulls: a member's codes shifted within domains (how many
latents find a partner by chance), and partners shuffled among each SAE's latents (how often the words meet by
chance). The interval of the agreement is of latents drawn anew with replacement from each SAE: what another
selection of as many such latents would have given, with the SAEs, the crosscoder and the text as they are, and
as if latents were independent of each other.
"""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64
from msgspec import Struct
from numpy import ndarray

from heredity.features.codes import Codes
from heredity.features.crosscoder_verdicts import (
    DECIDED,
    EXPECTED,
    against_correlation,
    agreement,
    judgement,
    partners,
    words_of,
)
from heredity.features.lineage import Lineage
from heredity.features.nulls import floor
from heredity.features.verdicts import Side
from heredity.seeds import generator

_NULLABLE = (
    "agree", "agree_low", "agree_high", "chance", "chance_p95", "kappa", "kappa_low", "kappa_high", "kappa_min",
    "kappa_max",
)  # fmt: skip


def crosscoder_tables(lineage: Lineage, table: pl.DataFrame, crosscoder: Codes) -> dict[str, pl.DataFrame]:
    """Return what a crosscoder over all members says of a lineage's edges.

    Args:
        lineage: the members' own SAEs, compared.
        table: `crosscoder_table` of the crosscoder.
        crosscoder: its codes over the lineage's stream.

    Returns:
        crosscoder_pairs: one row per member: n (latents of its SAEs that can be judged, mean), paired (share with a
            partner in the crosscoder; mean, min and max over seeds), floor and floor_p95 (by chance).
        crosscoder_meeting: one row per edge, pair of seeds, member and pair of words; see `against_correlation`.
        crosscoder_edges: one row per edge: pairs of seeds, n (latents that both methods decide, mean over pairs),
            agree with its interval, chance (partners shuffled; its 95th percentile), kappa with its interval, and its
            least and largest over the pairs of seeds.

    Raises:
        MismatchError: codes over different streams, or a table of another crosscoder.
    """
    paired: dict[tuple[str, int], Int64[ndarray, " latents"]] = {}
    for name, seeds in lineage.members.items():
        lineage.progress(f"{name} against the crosscoder")
        for seed, codes in enumerate(seeds):
            paired[name, seed] = partners(codes, crosscoder, lineage.settings)
    edges, meetings = [], []
    for parent, child in lineage.edges:
        parts = []
        for (s, t), comparison in zip(
            lineage.pairs(parent, child), lineage.comparisons(parent, child), strict=True
        ):
            met = against_correlation(
                table, crosscoder, (parent, child), (lineage.members[parent][s], lineage.members[child][t]), comparison,
                lineage.settings, paired=(paired[parent, s], paired[child, t]),
            )  # fmt: skip
            at = [pl.lit(parent).alias("parent"), pl.lit(child).alias("child")]
            at += [pl.lit(s).alias("seed_parent"), pl.lit(t).alias("seed_child")]
            parts.append(met.select(*at, pl.all()))
        meetings += parts
        edges.append(_edge(lineage, (parent, child), table, paired, parts))
    return {
        "crosscoder_pairs": pl.DataFrame(
            [_pairs(lineage, name, paired, crosscoder) for name in lineage.members]
        ),
        "crosscoder_meeting": pl.concat(meetings),
        "crosscoder_edges": pl.DataFrame(edges, schema_overrides=dict.fromkeys(_NULLABLE, pl.Float64)),
    }


def _pairs(
    lineage: Lineage, name: str, paired: dict[tuple[str, int], ndarray], crosscoder: Codes
) -> dict[str, Any]:
    seeds, settings = lineage.members[name], lineage.settings
    judged = [codes.firings >= settings.min_firings for codes in seeds]
    shares = [
        float((paired[name, seed][own] >= 0).mean()) if own.any() else 0.0 for seed, own in enumerate(judged)
    ]
    chance = floor(
        seeds, [crosscoder], lineage.documents, settings, seed=lineage.seed, name=f"crosscoder/{name}"
    )  # fmt: skip
    return {
        "member": name, "n": float(np.mean([own.sum() for own in judged])), "paired": float(np.mean(shares)),
        "paired_min": min(shares), "paired_max": max(shares), "floor": float(chance.mean[settings.at]),
        "floor_p95": float(chance.p95[settings.at]),
    }  # fmt: skip


def _edge(
    lineage: Lineage, edge: tuple[str, str], table: pl.DataFrame, paired: dict[tuple[str, int], ndarray],
    parts: list[pl.DataFrame],
) -> dict[str, Any]:  # fmt: skip
    words, found = words_of(table, edge), [agreement(part) for part in parts]
    own = [
        _own(lineage, edge, end, seed, words[paired[member, seed]])
        for end, member in enumerate(edge)
        for seed in range(len(lineage.members[member]))
    ]
    whole = _agree([one.sums(np.ones((1, one.n))) for one in own])
    n = sum(one.n for one in found)
    row: dict[str, Any] = {
        "parent": edge[0], "child": edge[1], "pairs": len(parts), "n": n / len(parts), "agree": None, "agree_low": None,
        "agree_high": None, "chance": None, "chance_p95": None, "kappa": None, "kappa_low": None, "kappa_high": None,
        "kappa_min": None, "kappa_max": None,
    }  # fmt: skip
    if n == 0:
        return row
    draw = generator(lineage.seed, "crosscoder latents", *edge)
    times = lineage.settings.resamples
    agree, chance = _agree(
        [one.sums(draw.multinomial(one.n, np.full(one.n, 1 / one.n), times)) for one in own if one.n]
    )
    shuffled = sum(one.shuffled(times, draw) for one in own) / n
    row |= {"agree": float(whole[0][0]), "chance": float(whole[1][0])}
    row |= _interval("agree", agree) | {"chance_p95": float(np.percentile(shuffled, 95))}
    if any(one.telling for one in own):
        row["kappa"] = float((whole[0][0] - whole[1][0]) / (1 - whole[1][0]))
        some = chance < 1
        row |= _interval("kappa", (agree[some] - chance[some]) / (1 - chance[some]))
        single = [one.kappa for one in found if one.kappa is not None]
        row |= {"kappa_min": min(single, default=None), "kappa_max": max(single, default=None)}
    return row


class _Own(Struct, frozen=True, eq=False):
    """One SAE's latents that both methods decide in some pair of seeds.

    Attributes:
        correlation: pairs of seeds in which correlation says each of the words [n, words].
        crosscoder: which of the words the crosscoder says [n].
    """

    correlation: Int64[ndarray, "n words"]
    crosscoder: Int64[ndarray, " n"]

    @property
    def n(self) -> int:
        return len(self.crosscoder)

    @property
    def telling(self) -> bool:
        """Whether each method has more than one word."""
        return bool((self.correlation.sum(axis=0) > 0).sum() > 1 and len(np.unique(self.crosscoder)) > 1)

    def hits(self, crosscoder: Int64[ndarray, " n"]) -> Int64[ndarray, " n"]:
        """Return in how many pairs of seeds each latent's words are the same."""
        same: Int64[ndarray, " n"] = self.correlation[np.arange(self.n), crosscoder]
        return same

    def sums(self, weight: ndarray) -> Float64[ndarray, "draws 3"]:
        """Return, for latents that weigh so much [draws, n], how many are decided, agree, and would by chance."""
        decided = weight @ self.correlation
        said = weight @ np.eye(len(DECIDED))[self.crosscoder]
        chance = (decided * said).sum(axis=1) / np.maximum(said.sum(axis=1), 1)
        return np.stack([decided.sum(axis=1), weight @ self.hits(self.crosscoder), chance], axis=1)

    def shuffled(self, times: int, draw: np.random.Generator) -> Float64[ndarray, " times"]:
        """Return how many agree once the partners are shuffled."""
        return np.array([self.hits(draw.permutation(self.crosscoder)).sum() for _ in range(times)], float)


def _own(lineage: Lineage, edge: tuple[str, str], end: int, seed: int, words: ndarray) -> _Own:
    """Collect one SAE's words over all pairs of seeds of an edge that it is in."""
    counts = np.zeros((len(words), len(DECIDED)), np.int64)
    gone = ("disappears", "emerges")[end]
    for pair, comparison in zip(lineage.pairs(*edge), lineage.comparisons(*edge), strict=True):
        if pair[end] != seed:
            continue
        side: Side = comparison.child if end else comparison.parent
        said = judgement(side, gone)
        for word in ("persists", gone):
            counts[:, DECIDED.index(EXPECTED[word])] += side.eligible & (said == word)
    number = np.full(len(words), -1)
    for place, name in enumerate(DECIDED):
        number[words == name] = place
    both = np.flatnonzero((number >= 0) & counts.any(axis=1))
    return _Own(counts[both], number[both])


def _agree(sums: list[Float64[ndarray, "draws 3"]]) -> tuple[ndarray, ndarray]:
    """Return the share that agrees, and that would by chance, of all SAEs together, for each draw."""
    n, agree, chance = np.sum(sums, axis=0).T
    return agree / np.maximum(n, 1), chance / np.maximum(n, 1)


def _interval(name: str, values: ndarray) -> dict[str, float | None]:
    if not len(values):
        return {f"{name}_low": None, f"{name}_high": None}
    low, high = np.percentile(values, [2.5, 97.5])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}
