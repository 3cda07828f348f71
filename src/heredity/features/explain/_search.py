"""Search, for one latent, the rule whose marks correlate best with its activation on the first half.

Each attribute's counts and sums of activation by value are all that a single condition needs. For a second one,
the same is counted again among the tokens where the first holds. What is maximised is Pearson's r less a price:
a second condition, and each doubling of a list, must raise r by more than it costs.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from msgspec import Struct
from numpy import ndarray

from heredity.features.codes import Codes
from heredity.features.explain import _conditions
from heredity.features.explain._conditions import Condition
from heredity.features.explain._halves import ATTRIBUTES, Attribute, Halves

_MOST_LISTED = 16
_UNSEEN = (
    5  # occurrences that a token is taken to have had besides, so that one chance firing convinces nobody
)
_FLAT = 1e-12

Counts = dict[Attribute, Float64[ndarray, " values"]]


class Found(NamedTuple):
    """Conditions and what they cost and reach: r − price, on the half that they were searched on."""

    gain: float
    price: float
    conditions: tuple[Condition, ...]


class _Latent(Struct, frozen=True, eq=False):
    """A latent on the first half: where it fires (numbered within the half), how much, n, Σx and n·variance."""

    at: Int64[ndarray, " firings"]
    x: Float64[ndarray, " firings"]
    n: int
    total: float
    spread: float

    def pearson(self, held: ndarray, joint: ndarray) -> Float64[ndarray, " rules"]:
        """Correlate 0/1 marks that hold on `held` tokens, with Σx = `joint` there."""
        spread = (held - held**2 / self.n) * self.spread
        fine = spread > _FLAT
        r = (joint - held * self.total / self.n) / np.sqrt(np.where(fine, spread, 1.0))
        return np.where(fine, r, 0.0)


class Search:
    """Rules over one pair of halves; what does not depend on the latent is counted once."""

    def __init__(self, halves: Halves, *, beam: int, penalty: float, list_penalty: float) -> None:
        self.halves, self.beam = halves, beam
        self.penalty, self.list_penalty = penalty, list_penalty
        self._number = np.cumsum(halves.first_tokens) - 1  # of each token within the half
        chosen = np.flatnonzero(halves.first_tokens)
        self._values = {name: halves.attribute(name)[chosen].astype(np.int32) for name in ATTRIBUTES}
        self._counts = {name: self._count(name, self._values[name]) for name in ATTRIBUTES}
        words, sizes = halves.words, {name: halves.size(name) for name in ATTRIBUTES}
        self._strings = _conditions.Strings(words, self._counts["token"] > 0)
        self._fixed: dict[Attribute, list[Condition]] = {
            "token": _conditions.classes("token", words, sizes["token"]),
            "previous": _conditions.classes("previous", words, sizes["previous"]),
            "context": _conditions.firsts("context"),
            "document": _conditions.firsts("document"),
            "line": _conditions.firsts("line"),
            "domain": [
                Condition("domain", np.arange(sizes["domain"]) == d, halves.stream.domains[d])
                for d in range(sizes["domain"])
            ],
        }
        self._marks = {name: np.stack([c.marks for c in own]) for name, own in self._fixed.items() if own}
        self._within: dict[tuple[Attribute, str], Counts] = {}

    def best(self, codes: Codes, latent: int) -> tuple[Condition, ...]:
        """Return the one or two conditions that pay most; none when the latent does not fire on this half."""
        own = self._latent(codes, latent)
        if own.spread <= _FLAT:
            return ()
        singles = sorted(self._scan(own, self._counts, own.at, own.x), key=lambda found: -found.gain)
        rules = list(singles[:1])
        for base in singles[: self.beam]:
            rules += self._joined(own, base)
        best = max(rules, key=lambda found: found.gain)
        return best.conditions if best.gain > 0 else ()

    def _joined(self, own: _Latent, base: Found) -> Iterator[Found]:
        """Yield the best second condition of every kind beside a first one."""
        first = base.conditions[0]
        inside = first.marks[self._values[first.attribute][own.at]]
        counts = self._counts_within(first, keep=any(first is c for c in self._fixed[first.attribute]))
        for found in self._scan(own, counts, own.at[inside], own.x[inside]):
            price = base.price + self.penalty
            yield Found(found.gain - price, found.price + price, (first, *found.conditions))

    def _scan(self, own: _Latent, counts: Counts, at: ndarray, x: ndarray) -> Iterator[Found]:
        """Yield the best condition of every kind, where `counts` says how often each value occurs."""
        for name in counts:
            sums = np.bincount(self._values[name][at], x, minlength=len(counts[name]))
            if name in self._marks:
                yield self._fixed_best(own, name, counts[name], sums)
            if name in ("token", "previous"):
                yield from self._listed(own, name, counts[name], sums)
                if len(self._strings):
                    yield self._string_best(own, name, counts[name], sums)

    def _fixed_best(self, own: _Latent, name: Attribute, counts: ndarray, sums: ndarray) -> Found:
        r = own.pearson(self._marks[name] @ counts, self._marks[name] @ sums)
        at = int(r.argmax())
        return Found(float(r[at]), 0.0, (self._fixed[name][at],))

    def _string_best(self, own: _Latent, name: Attribute, counts: ndarray, sums: ndarray) -> Found:
        members, offsets = self._strings.members, self._strings.offsets
        r = own.pearson(np.add.reduceat(counts[members], offsets), np.add.reduceat(sums[members], offsets))
        at = int(r.argmax())
        return Found(float(r[at]), 0.0, (self._strings.condition(at, name, len(counts)),))

    def _listed(self, own: _Latent, name: Attribute, counts: ndarray, sums: ndarray) -> Iterator[Found]:
        """Yield the best list of values and the best single one.

        Three orders: most activation, most correlated alone, most activation per occurrence.
        """
        there = np.flatnonzero(sums > 0)
        if not len(there):
            return
        c, s = counts[there], sums[there]
        best: Found | None = None
        single: Found | None = None
        for order in (s, s / np.sqrt(c), s / (c + _UNSEEN)):
            ranked = np.lexsort((there, -order))[:_MOST_LISTED]
            r = own.pearson(np.cumsum(c[ranked]), np.cumsum(s[ranked]))
            prices = self.list_penalty * np.log2(np.arange(1, len(ranked) + 1))
            for n, price in enumerate(prices.tolist(), start=1):
                gain = float(r[n - 1]) - price
                if best is None or gain > best.gain + 1e-9:
                    best = Found(gain, price, (self._list(name, there[ranked[:n]]),))
                if n == 1 and (single is None or gain > single.gain + 1e-9):
                    single = Found(gain, price, (self._list(name, there[ranked[:1]]),))
        yield from (found for found in (single, best) if found is not None)

    def _list(self, name: Attribute, entries: Int64[ndarray, " n"]) -> Condition:
        words = self.halves.words if name in ("token", "previous") else ()
        return _conditions.listed(name, entries.tolist(), words, self.halves.size(name))

    def _counts_within(self, first: Condition, *, keep: bool) -> Counts:
        """Count every other attribute where a condition holds; counts of conditions that recur are kept."""
        key = (first.attribute, first.text)
        if key in self._within:
            return self._within[key]
        holds = np.flatnonzero(first.marks[self._values[first.attribute]])
        others: Sequence[Attribute] = [name for name in ATTRIBUTES if name != first.attribute]
        counts = {name: self._count(name, self._values[name][holds]) for name in others}
        if keep:
            self._within[key] = counts
        return counts

    def _count(self, name: Attribute, values: ndarray) -> Float64[ndarray, " values"]:
        return np.bincount(values, minlength=self.halves.size(name)).astype(np.float64)

    def _latent(self, codes: Codes, latent: int) -> _Latent:
        tokens, values = codes.of_latent(latent)
        inside = self.halves.first_tokens[tokens]
        at, x = self._number[tokens[inside]], values[inside].astype(np.float64)
        n, total = len(self._values["token"]), float(x.sum())
        return _Latent(at, x, n, total, float(np.square(x).sum()) - total**2 / n)
