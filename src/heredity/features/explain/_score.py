"""Score explanations by simulation: Pearson's r of what the words predict with what the latent does.

The same code scores every explainer, on contexts that none of them has seen. The null: the same latent, on the
same contexts, with explanations that were made for other latents.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64
from msgspec import Struct
from numpy import ndarray

from heredity.corpora.tokens import TokenStream
from heredity.features.codes import Codes
from heredity.features.describe import Decode
from heredity.features.explain import name_of
from heredity.features.explain._explainer import Explainer, Explanation, ExplanationError, NotExplained
from heredity.features.explain._halves import Halves
from heredity.features.explain.rules import Rules
from heredity.seeds import generator

_FLAT = 1e-12
_SCHEMA = {
    "member": pl.String, "seed": pl.Int64, "latent": pl.Int64, "explainer": pl.String, "rule": pl.String,
    "score": pl.Float64, "null_score": pl.Float64, "null_best": pl.Float64, "n_nulls": pl.Int64,
    "n_contexts": pl.Int64, "failed": pl.String, "calls": pl.Int64, "prompt_tokens": pl.Int64,
    "completion_tokens": pl.Int64,
}  # fmt: skip


def explanations_table(
    codes: Codes,
    stream: TokenStream,
    decode: Decode,
    latents: Sequence[int],
    *,
    seed: int,
    column: int = 0,
    explainers: Sequence[Explainer] = (Rules(),),
    folder: Path | None = None,
) -> pl.DataFrame:
    """Explain some latents of one SAE with every explainer, and score the explanations.

    Args:
        codes: of one SAE.
        stream: the tokens that they stand on.
        decode: text of a token.
        latents: which, the most wanted first.
        seed: key of the halves and of the nulls' draw.
        column: for the column `seed`.
        explainers: each gives a row per latent.
        folder: where explainers keep answers that were paid for.

    Columns: member, seed, latent, explainer, rule (the words); score (Pearson on held-out contexts); null_score and
    null_best (mean and largest of the same with n_nulls other latents' explanations); n_contexts (held-out
    contexts, or windows of them); failed (why there is no score; null otherwise); calls, prompt_tokens,
    completion_tokens (what the row cost).
    """
    halves = Halves(stream, decode, seed=seed)
    rows: list[dict[str, Any]] = []
    for explainer in explainers:
        name = name_of(explainer)
        with explainer.explaining(codes, latents, halves, folder) as explanations:
            scored = _Scorer(codes, halves, explainer, latents, explanations).rows()
            who = {"member": codes.meta.member, "seed": column, "explainer": name}
            rows.extend({**who, **row} for row in scored)
    return pl.DataFrame(rows, schema=_SCHEMA)


def explanations_summary(table: pl.DataFrame) -> pl.DataFrame:
    """Sum an explanations table up, by member and explainer.

    Columns: member, explainer; latents, explained, failed (counts); score, score_median, null_score (means over
    the explained); above_null (share whose score is above the mean of its nulls), above_every_null (share whose
    score is above all of its nulls) and above_by_chance (what that share would be for explanations drawn at
    random); calls, prompt_tokens, completion_tokens (sums).
    """
    scored = pl.col("score").is_not_null() & pl.col("null_score").is_not_null()
    score, null = pl.col("score").filter(scored), pl.col("null_score").filter(scored)
    return table.group_by("member", "explainer", maintain_order=True).agg(
        latents=pl.len(),
        explained=pl.col("score").is_not_null().sum(),
        failed=pl.col("failed").is_not_null().sum(),
        score=pl.col("score").mean(),
        score_median=pl.col("score").median(),
        null_score=null.mean(),
        above_null=(score > null).mean(),
        above_every_null=(score > pl.col("null_best").filter(scored)).mean(),
        above_by_chance=(1 / (1 + pl.col("n_nulls").filter(scored))).mean(),
        calls=pl.col("calls").sum(),
        prompt_tokens=pl.col("prompt_tokens").sum(),
        completion_tokens=pl.col("completion_tokens").sum(),
    )


class _Truth(Struct, frozen=True, eq=False):
    """A latent on its held-out windows: where in them it fires, how much, Σx and n·variance."""

    starts: Int64[ndarray, " windows"]
    at: Int64[ndarray, " firings"]
    x: Float64[ndarray, " firings"]
    n: int
    spread: float

    def pearson(self, predicted: "_Predicted") -> float | None:
        """Correlate a simulation of the windows with the latent; None where either does not vary."""
        spread = predicted.spread * self.spread
        if spread <= _FLAT:
            return None
        joint = float(predicted.values[self.at] @ self.x)
        return (joint - predicted.total * float(self.x.sum()) / self.n) / float(np.sqrt(spread))


class _Predicted(Struct, frozen=True, eq=False):
    """A simulation of windows, one token after the other, with its sum and n·variance."""

    values: Float64[ndarray, " tokens"]
    total: float
    spread: float

    @classmethod
    def of(cls, values: ndarray) -> "_Predicted":
        flat = values.ravel().astype(np.float64)
        total = float(flat.sum())
        return cls(flat, total, float(flat @ flat) - total**2 / max(1, len(flat)))


class _Scorer:
    """Scores one explainer's explanations of one SAE."""

    def __init__(
        self,
        codes: Codes,
        halves: Halves,
        explainer: Explainer,
        latents: Sequence[int],
        explanations: Sequence[Explanation | NotExplained],
    ) -> None:
        self.codes, self.halves, self.explainer = codes, halves, explainer
        self.latents, self.explanations = latents, explanations
        self.length = halves.stream.context if explainer.windows is None else halves.window_tokens
        self._whole = halves.held_out_contexts() if explainer.windows is None else None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the row of every latent in order.

        A simulation of the whole half serves every latent that the explanation is scored on; it is made once.
        """
        n = len(self.latents)
        truths = [self._truth(latent) for latent in self.latents]
        costs = [explanation.cost for explanation in self.explanations]
        scores: list[float | None] = [None] * n
        nulls: list[list[float]] = [[] for _ in range(n)]
        failed = [e.reason if isinstance(e, NotExplained) else None for e in self.explanations]
        users: list[list[int]] = [[] for _ in range(n)]
        for i in range(n):
            if truths[i].spread <= _FLAT:
                failed[i] = failed[i] or "it does not fire on the held-out contexts"
            if failed[i] is None:
                for j in self._drawn(i):
                    users[j].append(i)
        for j, explanation in enumerate(self.explanations):
            if isinstance(explanation, NotExplained):
                continue
            shared: _Predicted | None = None
            for i in ([j] if failed[j] is None else []) + users[j]:
                if shared is None or self._whole is None:
                    try:
                        simulation = explanation.simulate(self.halves, truths[i].starts, self.length)
                    except ExplanationError as error:
                        costs[i] += error.cost
                        if i == j:
                            failed[i] = error.message
                        continue
                    costs[i] += simulation.cost
                    shared = _Predicted.of(simulation.values)
                r = truths[i].pearson(shared)
                if i != j:
                    nulls[i].append(0.0 if r is None else r)  # words that never hold predict nothing
                elif r is None:
                    failed[i] = "on the held-out contexts the explanation predicts the same everywhere"
                else:
                    scores[i] = r
        for i, latent in enumerate(self.latents):
            kept = nulls[i] if failed[i] is None else []
            explanation = self.explanations[i]
            yield {
                "latent": int(latent),
                "rule": None if isinstance(explanation, NotExplained) else explanation.text,
                "score": scores[i], "null_score": float(np.mean(kept)) if kept else None,
                "null_best": max(kept, default=None), "n_nulls": len(kept),
                "n_contexts": len(truths[i].starts), "failed": failed[i], "calls": costs[i].calls,
                "prompt_tokens": costs[i].prompt_tokens, "completion_tokens": costs[i].completion_tokens,
            }  # fmt: skip

    def _drawn(self, i: int) -> list[int]:
        """Draw, by a key, latents whose explanations say something else."""
        own = self.explanations[i]
        assert isinstance(own, Explanation)
        others = [
            j
            for j, other in enumerate(self.explanations)
            if isinstance(other, Explanation) and j != i and other.text != own.text
        ]
        meta = self.codes.meta
        draw = generator(self.halves.seed, "random explanations", meta.member, meta.seed, self.latents[i])
        return [others[int(k)] for k in draw.permutation(len(others))[: self.explainer.nulls]]

    def _truth(self, latent: int) -> _Truth:
        starts = self._whole
        if starts is None:
            starts = self.halves.held_out_windows(self.codes, latent, self.explainer.windows or 0)
        tokens, values = self.codes.of_latent(latent)
        tokens = tokens.astype(np.int64)
        n = len(starts) * self.length
        if not len(starts):
            return _Truth(starts, tokens[:0], np.zeros(0), n, 0.0)
        window = np.maximum(np.searchsorted(starts, tokens, side="right") - 1, 0)
        offset = tokens - starts[window]
        inside = (offset >= 0) & (offset < self.length)
        x = values[inside].astype(np.float64)
        spread = float(np.square(x).sum() - x.sum() ** 2 / n)
        return _Truth(starts, (window * self.length + offset)[inside], x, n, spread)
