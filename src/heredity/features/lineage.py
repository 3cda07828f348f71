"""The lineage of a family's features: what persists on every edge, against its floor and its ceiling.

heritability = (persist − floor) / (ceiling − floor). Persistence averages the pairs of seeds across the edge;
the ceiling is the geometric mean of the two ends' seed-to-seed shares. The interval resamples documents and
seeds (floor: its shifts), everything together, so that what the three have in common cancels. No ratio is
given when the interval of ceiling − floor includes 0.

Where a child's SAE began at its parent's of the same seed (`shared_start`), these two share a start and their
agreement is no evidence: shares are of pairs of different seeds only. Their starts go back to two independent
SAEs of the root, as those of a ceiling's pair do, so that a child like its parent comes to 1 either way.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from msgspec import Struct
from numpy import ndarray

from heredity.corpora.tokens import TokenStream
from heredity.errors import ConfigError
from heredity.features.codes import Codes
from heredity.features.consensus import LEAST_SEEDS
from heredity.features.l0 import unequal_l0
from heredity.features.nulls import Floor, false_discovery, floor
from heredity.features.resample import Documents, Resampler, Totals
from heredity.features.verdicts import Comparison, Side, Tracking, compare
from heredity.seeds import generator

Edge = tuple[str, str]
_FEW_DOCUMENTS = 10


class Ceiling(Struct, frozen=True, eq=False):
    """How much of one member's SAE a second seed finds again.

    Attributes:
        curve: share, for each τ of the grid.
        resampled: the same in each resample of documents and seeds [resamples, taus].
        r: best r of every eligible latent, all pairs of seeds in both directions.
        split: share that splits at the chosen τ, in another seed.
    """

    curve: Float64[ndarray, " taus"]
    resampled: Float64[ndarray, "resamples taus"]
    r: Float64[ndarray, " n"]
    split: float


class EdgeResult(Struct, eq=False, dict=True):
    """Everything measured on one edge.

    Attributes:
        parent, child: names.
        comparisons: one per pair of seeds, in the order of `pairs`.
        pairs: (seed index of the parent, of the child).
        persist: resampled share that persists [resamples, taus].
        floor: by chance.
        ceiling: geometric mean of the two ends' [taus], and resampled [resamples, taus]; none with one seed.
    """

    parent: str
    child: str
    comparisons: list[Comparison]
    pairs: list[tuple[int, int]]
    persist: Float64[ndarray, "resamples taus"]
    floor: Floor
    floor_resampled: Float64[ndarray, "resamples taus"]
    ceiling: tuple[Float64[ndarray, " taus"], Float64[ndarray, "resamples taus"]] | None

    @cached_property
    def persist_curve(self) -> Float64[ndarray, " taus"]:
        """Share that persists at each τ, mean over the pairs of seeds."""
        return np.mean([c.parent.curve for c in self.comparisons], axis=0)

    @cached_property
    def false_discovery(self) -> tuple[Float64[ndarray, " taus"], Float64[ndarray, " taus"]]:
        """False-discovery rate at each τ and its upper 95 % bound."""
        return false_discovery(self.persist_curve, self.floor, (self.persist, self.floor_resampled))

    def heritability(self, at: int) -> tuple[float | None, float | None, float | None]:
        """Return heritability and its 95 % interval at one place of the τ grid; None: no usable ceiling."""
        if self.ceiling is None:
            return None, None, None
        return heritability(
            (float(self.persist_curve[at]), self.persist[:, at]),
            (float(self.floor.mean[at]), self.floor_resampled[:, at]),
            (float(self.ceiling[0][at]), self.ceiling[1][:, at]),
        )


_Measured = tuple[float, Float64[ndarray, " resamples"]]


def heritability(
    persist: _Measured, floor: _Measured, ceiling: _Measured
) -> tuple[float | None, float | None, float | None]:
    """Return (persist − floor)/(ceiling − floor) and its 95 % interval; None: no usable ceiling.

    Resamples in which the ceiling is not above the floor have no ratio and are left out of the interval; with
    a usable ceiling they are at most one in forty.

    Args:
        persist, floor, ceiling: each with its value in every resample.
    """
    room = ceiling[1] - floor[1]
    if np.percentile(room, 2.5) <= 0 or ceiling[0] <= floor[0]:
        return None, None, None
    some = room > 0
    low, high = np.percentile((persist[1][some] - floor[1][some]) / room[some], [2.5, 97.5])
    return (persist[0] - floor[0]) / (ceiling[0] - floor[0]), float(low), float(high)


class Lineage:
    """A family's codes, compared along its edges.

    Attributes:
        members: codes of every member, one per seed.
        edges: (parent, child), in the order given.
        shared_start: SAEs of one seed begin at each other along the edges.
        progress: told what is about to be measured.
        warnings: what a reader must know beside the numbers.
    """

    def __init__(
        self,
        members: Mapping[str, Sequence[Codes]],
        edges: Sequence[Edge],
        stream: TokenStream,
        settings: Tracking,
        *,
        seed: int,
        shared_start: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare; every comparison is made when it is first asked for, and kept.

        Args:
            members: codes over `stream`, at least one seed each, two for a ceiling.
            edges: (parent, child).
            stream: the shared tokens.
            settings: τ and the rest.
            seed: of shifts and resamples.
            shared_start: a child's SAE began at its parent's of the same seed: such pairs are in no share.
            progress: called with a line before each comparison.

        Raises:
            MismatchError: codes over different streams.
            ConfigError: an edge names no member, a member has no codes, or one seed where starts are shared.
        """
        for name in (end for edge in edges for end in edge):
            if not members.get(name):
                raise ConfigError(
                    f"edge with {name!r}: no codes of that member", "train and encode its SAEs first"
                )
        if shared_start and any(len(codes) < 2 for codes in members.values()):
            raise ConfigError(
                "one SAE per member, and each began at its parent's: no pair is independent",
                "train at least two seeds per member",
            )
        one = next(iter(members.values()))[0]
        for codes in members.values():
            for other in codes:
                one.check_same_tokens(other)
        self.members = {name: list(codes) for name, codes in members.items()}
        self.edges, self.settings, self.seed = list(edges), settings, seed
        self.shared_start = shared_start
        self.documents = Documents.of(stream)
        self.resampler = Resampler(self.documents, resamples=settings.resamples, seed=seed)
        self.progress = progress or (lambda _: None)
        self._totals: dict[tuple[str, int], Totals] = {}
        self._comparisons: dict[tuple[str, int, str, int], Comparison] = {}
        self._ceilings: dict[str, Ceiling | None] = {}
        self._results: dict[Edge, EdgeResult] = {}
        self.warnings = self._warn()

    def parents(self, member: str) -> list[str]:
        """Return a member's parents, in the order of the edges."""
        return [parent for parent, child in self.edges if child == member]

    @property
    def root(self) -> str:
        """The first member without a parent."""
        return next(name for name in self.members if not self.parents(name))

    def comparison(self, parent: str, s: int, child: str, t: int) -> Comparison:
        """Compare one seed of a member with one of another (or of the same)."""
        key = (parent, s, child, t)
        if key not in self._comparisons:
            self.progress(f"{parent} seed {s} against {child} seed {t}")
            a, b = self.members[parent][s], self.members[child][t]
            self._comparisons[key] = compare(
                a, b, self._total(parent, s), self._total(child, t), self.resampler, self.settings
            )
        return self._comparisons[key]

    def comparisons(self, parent: str, child: str) -> list[Comparison]:
        """Compare two members by all pairs of seeds that shares are of."""
        return [self.comparison(parent, s, child, t) for s, t in self.pairs(parent, child)]

    def pairs(self, parent: str, child: str) -> list[tuple[int, int]]:
        """Return every (seed of the parent, seed of the child) that shares are of: those without a shared start."""
        return [pair for pair in self.all_pairs(parent, child) if not self.related(*pair)]

    def all_pairs(self, parent: str, child: str) -> list[tuple[int, int]]:
        """Return every (seed of the parent, seed of the child)."""
        return [(s, t) for s in range(len(self.members[parent])) for t in range(len(self.members[child]))]

    def related(self, s: int, t: int) -> bool:
        """Say whether SAEs of two members with these seeds go back to one start."""
        return self.shared_start and s == t

    def side(self, member: str, s: int, other: str, t: int) -> Side:
        """Return what one SAE's latents find in another's, from whichever way round the two were compared."""
        if (other, t, member, s) in self._comparisons or (member == other and t < s):
            return self.comparison(other, t, member, s).child
        return self.comparison(member, s, other, t).parent

    def ceiling(self, member: str) -> Ceiling | None:
        """Compare a member's SAEs with each other; None for a single seed."""
        if member not in self._ceilings:
            self._ceilings[member] = self._measure_ceiling(member)
        return self._ceilings[member]

    def result(self, parent: str, child: str) -> EdgeResult:
        """Measure one edge."""
        edge = parent, child
        if edge not in self._results:
            self._results[edge] = self._measure(parent, child)
        return self._results[edge]

    def results(self) -> list[EdgeResult]:
        """Measure every edge."""
        return [self.result(*edge) for edge in self.edges]

    def seed_draws(self, member: str) -> Float64[ndarray, "resamples seeds"]:
        """Return how often each seed of a member is drawn in each resample."""
        n = len(self.members[member])
        draw = generator(self.seed, "resample seeds", member)
        return draw.multinomial(n, np.full(n, 1 / n), size=self.settings.resamples).astype(np.float64)

    def _total(self, member: str, s: int) -> Totals:
        if (member, s) not in self._totals:
            self._totals[member, s] = self.resampler.totals(self.members[member][s])
        return self._totals[member, s]

    def _measure(self, parent: str, child: str) -> EdgeResult:
        comparisons, pairs = self.comparisons(parent, child), self.pairs(parent, child)
        of_parent, of_child = self.seed_draws(parent), self.seed_draws(child)
        weight = some_weight(np.array([of_parent[:, s] * of_child[:, t] for s, t in pairs]).T)
        persist = _weighted([c.parent.bounds.shares for c in comparisons], weight)
        self.progress(f"{parent} → {child}: floor")
        chance = floor(
            self.members[parent], self.members[child], self.documents, self.settings, seed=self.seed,
            name=f"{parent}/{child}", pairs=pairs,
        )  # fmt: skip
        by_chance = chance.resampled(
            self.settings.resamples, generator(self.seed, "resample shifts", parent, child)
        )
        ends = self.ceiling(parent), self.ceiling(child)
        ceiling = None
        if ends[0] is not None and ends[1] is not None:
            ceiling = np.sqrt(ends[0].curve * ends[1].curve), np.sqrt(ends[0].resampled * ends[1].resampled)
        return EdgeResult(parent, child, comparisons, pairs, persist, chance, by_chance, ceiling)

    def _measure_ceiling(self, member: str) -> Ceiling | None:
        n = len(self.members[member])
        if n < 2:
            return None
        pairs = [(s, t) for s in range(n) for t in range(s + 1, n)]
        sides: list[Side] = []
        for s, t in pairs:
            both = self.comparison(member, s, member, t)
            sides += [both.parent, both.child]
        draws = self.seed_draws(member)
        weight = some_weight(np.array([draws[:, s] * draws[:, t] for s, t in pairs for _ in range(2)]).T)
        return Ceiling(
            np.mean([side.curve for side in sides], axis=0),
            _weighted([side.bounds.shares for side in sides], weight),
            np.concatenate([side.best_r[side.eligible] for side in sides]),
            float(np.mean([side.share(side.splits) for side in sides])),
        )

    def _warn(self) -> list[str]:
        lines = []
        for name, n in self.documents.in_domain().items():
            if n < _FEW_DOCUMENTS:
                lines.append(
                    f"{name} has only {n} documents in the stream: its part of every interval is a guess"
                )
        if any(len(codes) == 2 for codes in self.members.values()):
            lines.append("two seeds per member: the intervals are conditional on these SAEs")
        if any(len(codes) < LEAST_SEEDS for codes in self.members.values()):
            lines.append(
                f"consensus features need at least {LEAST_SEEDS} seeds per member: "
                "what disappears may be the SAE's choice"
            )
        if any(len(codes) == 1 for codes in self.members.values()):
            lines.append("a member has one SAE only: edges with it have no ceiling and no heritability")
        return [*lines, *self.uneven()]

    def uneven(self) -> list[str]:
        """Say of which edges the SAEs differ by more than 20 % in L0: a share between them is to be read with care."""
        lines = []
        for parent, child in self.edges:
            named = {
                f"{name} seed {seed}": codes.l0
                for name in (parent, child)
                for seed, codes in enumerate(self.members[name])
            }
            lines += [f"{parent} → {child}: {line}" for line in unequal_l0(named)]
        return lines


def some_weight(weight: Float64[ndarray, "resamples pairs"]) -> Float64[ndarray, "resamples pairs"]:
    """Return weights of pairs of seeds; a resample that drew none of the pairs takes all of them alike."""
    return np.where(weight.sum(axis=1, keepdims=True) == 0, 1.0, weight)


def _weighted(shares: list[ndarray], weight: ndarray) -> Float64[ndarray, "resamples taus"]:
    """Average [pairs][resamples, taus] with one weight per resample and pair."""
    mean: Float64[ndarray, "resamples taus"] = np.einsum("prt,rp->rt", np.stack(shares), weight)
    return mean / weight.sum(axis=1, keepdims=True)
