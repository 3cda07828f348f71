"""An offline explainer: the plain rule that best simulates a latent, scored on contexts it has not seen.

A rule marks tokens: this token is one of a few, or of a class of characters; the token before it is; all of
it perhaps in one domain only. The simulation is 1 where the rule holds and 0 elsewhere, its score the Pearson
correlation with the latent's activation. Rules are chosen on one half of the contexts and scored on the
other; the null is the mean score, on the same latent, of rules that were chosen for other latents.
"""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64
from msgspec import Struct
from numpy import ndarray

from heredity.corpora.tokens import TokenStream
from heredity.features.codes import Codes
from heredity.seeds import generator

_SIZES = (1, 2, 4, 8, 16)
_NULL_RULES = 10
_CLASSES: dict[str, Callable[[str], bool]] = {
    "digits": lambda t: t.strip().isdigit(),
    "a capitalised word": lambda t: t.strip()[:1].isupper() and t.strip()[1:].islower(),
    "capitals": lambda t: len(t.strip()) > 1 and t.strip().isupper(),
    "punctuation": lambda t: bool(t.strip()) and not any(c.isalnum() or c.isspace() for c in t.strip()),
    "white space": lambda t: bool(t) and t.isspace(),
    "a line end": lambda t: "\n" in t,
    "the start of a word": lambda t: t[:1] == " " and t[1:2].isalpha(),
    "the inside of a word": lambda t: t[:1].isalpha() and t[:1].islower(),
}


class Rule(Struct, frozen=True, eq=False):
    """Marks the tokens where one holds.

    Attributes:
        text: the rule in words.
        tokens: which vocabulary entries it names.
        before: whether they are the token before.
        domain: the only domain where it holds, or −1 for all.
    """

    text: str
    tokens: Bool[ndarray, " vocabulary"]
    before: bool
    domain: int


class _Half(Struct, frozen=True, eq=False):
    """Counts of tokens, by domain and vocabulary entry, of this token and of the one before."""

    chosen: Bool[ndarray, " tokens"]
    counts: tuple[Float64[ndarray, "domains vocabulary"], Float64[ndarray, "domains vocabulary"]]


class _Sums(Struct, frozen=True, eq=False):
    """A latent on one half: Σx and Σx², and Σx by domain and vocabulary entry."""

    by_token: tuple[Float64[ndarray, "domains vocabulary"], Float64[ndarray, "domains vocabulary"]]
    total: float
    square: float


def explanations_table(
    codes: Codes,
    stream: TokenStream,
    decode: Callable[[int], str],
    latents: Sequence[int],
    *,
    seed: int,
    column: int = 0,
) -> pl.DataFrame:
    """Explain some latents of one SAE.

    Args:
        codes: of one SAE.
        stream: the tokens that they stand on.
        decode: text of a token.
        latents: which.
        seed: key of the halves and of the null's draw.
        column: for the column `seed`.

    Columns: member, seed, latent, rule, score (held-out Pearson), null_score (mean of other latents' rules).
    """
    explainer = Explainer(stream, decode, seed=seed)
    rules = [explainer.explain(codes, latent) for latent in latents]
    rows = []
    for at, (latent, rule) in enumerate(zip(latents, rules, strict=True)):
        others = [other for i, other in enumerate(rules) if i != at and other.text != rule.text]
        draw = generator(seed, "random rules", codes.meta.member, latent)
        picked = draw.permutation(len(others))[:_NULL_RULES]
        null = [explainer.score(codes, latent, others[int(i)]) for i in picked]
        rows.append(
            {
                "member": codes.meta.member, "seed": column, "latent": int(latent), "rule": rule.text,
                "score": explainer.score(codes, latent, rule), "null_score": float(np.mean(null)) if null else
                None,
            }
        )  # fmt: skip
    schema = {
        "member": pl.String, "seed": pl.Int64, "latent": pl.Int64, "rule": pl.String, "score": pl.Float64,
        "null_score": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


class Explainer:
    """Searches rules on one keyed half of a stream's contexts and scores them on the other."""

    def __init__(self, stream: TokenStream, decode: Callable[[int], str], *, seed: int) -> None:
        tokens = np.asarray(stream.tokens).astype(np.int64)
        self.domains = stream.domains
        self._decode = decode
        self._size = int(tokens.max()) + 1
        self._domain = np.asarray(stream.domain).astype(np.int64)
        previous = np.concatenate([tokens[:1], tokens[:-1]])
        self._tokens = tokens, previous
        half = generator(seed, "explainer halves").random(stream.n_blocks) < 0.5
        first = np.repeat(half, stream.context)
        self._fit, self._held_out = (
            _Half(chosen, (self._by_token(tokens, chosen), self._by_token(previous, chosen)))
            for chosen in (first, ~first)
        )
        words = [decode(i) for i in range(self._size)]
        self._classes = {name: np.array([test(w) for w in words], bool) for name, test in _CLASSES.items()}

    def explain(self, codes: Codes, latent: int) -> Rule:
        """Return the rule with the best score on the first half."""
        sums = self._sums(codes, latent, self._fit)
        best, rule = -1.0, Rule("nothing found", np.zeros(self._size, bool), False, -1)
        for candidate in self._candidates(sums):
            score = self._pearson(candidate, self._fit, sums)
            if score > best + 1e-9:
                best, rule = score, candidate
        return rule

    def score(self, codes: Codes, latent: int, rule: Rule) -> float:
        """Return the rule's Pearson correlation with a latent on the held-out half."""
        return self._pearson(rule, self._held_out, self._sums(codes, latent, self._held_out))

    def _candidates(self, sums: _Sums) -> list[Rule]:
        every = np.ones(self._size, bool)
        domains = [-1, *range(len(self.domains))]
        rules = [Rule(f"any token of {self.domains[d]}", every, False, d) for d in domains[1:]]
        for d in domains:
            place = "" if d < 0 else f", in {self.domains[d]}"
            rows = slice(None) if d < 0 else slice(d, d + 1)
            for before in (False, True):
                lead = "after " if before else ""
                for name, marks in self._classes.items():
                    rules.append(Rule(f"{lead}{name}{place}", marks, before, d))
                total = sums.by_token[before][rows].sum(axis=0)
                count = self._fit.counts[before][rows].sum(axis=0)
                for order in (total, total / np.maximum(count, 5)):  # most of its activation, and most sure
                    ranked = np.lexsort((np.arange(self._size), -order))
                    for n in _SIZES:
                        names = [int(i) for i in ranked[:n] if total[i] > 0]
                        if len(names) == n:
                            marks = np.zeros(self._size, bool)
                            marks[names] = True
                            listed = ", ".join(repr(self._decode(i)) for i in names)
                            rules.append(Rule(f"{lead}{listed}{place}", marks, before, d))
        return rules

    def _pearson(self, rule: Rule, half: _Half, sums: _Sums) -> float:
        rows = slice(None) if rule.domain < 0 else slice(rule.domain, rule.domain + 1)
        n = float(half.chosen.sum())
        held = float(half.counts[rule.before][rows][:, rule.tokens].sum())
        joint = float(sums.by_token[rule.before][rows][:, rule.tokens].sum())
        spread = (held - held**2 / n) * (sums.square - sums.total**2 / n)
        return (joint - held * sums.total / n) / float(np.sqrt(spread)) if spread > 1e-12 else 0.0

    def _sums(self, codes: Codes, latent: int, half: _Half) -> _Sums:
        tokens, values = codes.of_latent(latent)
        inside = half.chosen[tokens]
        at, x = tokens[inside].astype(np.int64), values[inside].astype(np.float64)
        by_token = tuple(self._by_token(names, at, x) for names in self._tokens)
        return _Sums((by_token[0], by_token[1]), float(x.sum()), float(np.square(x).sum()))

    def _by_token(
        self, names: Int64[ndarray, " tokens"], where: ndarray, weight: ndarray | None = None
    ) -> ndarray:
        place = self._domain[where] * self._size + names[where]
        counts = np.bincount(place, weight, minlength=len(self.domains) * self._size)
        return counts.astype(np.float64).reshape(len(self.domains), self._size)
