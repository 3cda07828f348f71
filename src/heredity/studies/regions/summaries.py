"""From a study's measured tables to its summaries, each number with an interval; nothing is measured here.

What is resampled is the unit of the claim: whole data sets (with all their seeds), sets with the same texts as one,
families, or pairs of models.
"""

from collections.abc import Hashable

import numpy as np
import polars as pl
from scipy.stats import binomtest

from heredity.run import Run
from heredity.seeds import generator
from heredity.studies.regions.config import RegionsStudy

PAPER = {
    ("data", "In", "Ex"): 1.000, ("data", "In′", "Ex"): 1.000, ("data", "In′", "In"): 0.880,
    ("family", "In", "Ex"): 0.753, ("family", "In′", "Ex"): 1.000, ("family", "In′", "In"): 0.967,
    ("general", "In", "Ex"): 0.898, ("general", "In′", "Ex"): 1.000, ("general", "In′", "In"): 0.900,
}  # fmt: skip
"""P_B of arXiv 2302.04863: one data set (MNLI), one task (NLI), general; RoBERTa-base."""
WORDS = {"data": "same set", "family": "same family", "general": "general"}
KINSHIP = ("same set", "same texts, other labels", "same family, other texts", "other family")
_DRAWS = 2000


def summarise(run: Run, config: RegionsStudy) -> None:
    """Write the summaries of what is measured so far.

    `kinship_kinds`, `beside_paper`, `interpolation_kinds`, `interpolation_curves` and `centre_count`.
    """
    if run.has_table("kinship_pairs"):
        run.write_table("kinship_kinds", kinship_kinds(run.table("kinship_pairs"), config.controls, run.seed))
    if run.has_table("separation"):
        run.write_table("beside_paper", beside_paper(run.table("separation"), run.seed))
    if run.has_table("interpolation_pairs"):
        run.write_table("interpolation_kinds", pair_kinds(run.table("interpolation_pairs"), run.seed))
        run.write_table("interpolation_curves", mean_curves(run.table("interpolation"), run.seed))
    if run.has_table("centre_sets"):
        run.write_table("centre_count", count_sets(run.table("centre_sets"), run.seed))


def kinship_kinds(pairs: pl.DataFrame, controls: dict[str, str], seed: int) -> pl.DataFrame:
    """Average cosines over pairs of sets, with the middle 95 % when sets are resampled.

    Pairs that share a set are not independent, nor are sets with the same texts: those are drawn together, and a pair
    counts as often as both its ends were drawn.

    Args:
        pairs: kind, first, second (names of sets) and cosine, of every pair of members.
        controls: set → set with the same texts, both ways round.
        seed: of the draws.
    """
    source = {name: min(name, other) for name, other in controls.items()}
    means = pairs.group_by("kind", "first", "second", maintain_order=True).agg(pl.col("cosine").mean())
    ends = [[source.get(name, name) for name in means[end]] for end in ("first", "second")]
    sources = sorted(dict.fromkeys([*ends[0], *ends[1]]))
    rng = generator(seed, "sets of pairs")
    drawn = rng.multinomial(len(sources), np.full(len(sources), 1 / len(sources)), size=_DRAWS)
    first, second = (drawn[:, [sources.index(name) for name in names]] for names in ends)
    weights = np.where(np.array(ends[0]) == np.array(ends[1]), first, first * second)
    rows = []
    for kind in KINSHIP:
        here = (means["kind"] == kind).to_numpy()
        values = means["cosine"].to_numpy()[here]
        if not len(values):
            continue
        own = weights[:, here]
        own = own[own.sum(axis=1) > 0]
        interval: list[float | None] = [None, None]
        if len(np.unique(own, axis=1).T) > 1:  # pairs of the same texts are drawn as one: no interval of one
            interval = np.quantile(own @ values / own.sum(axis=1), [0.025, 0.975]).tolist()
        rows.append((kind, float(values.mean()), *interval, len(values)))
    schema = {
        "kind": pl.String, "cosine": pl.Float64, "low": pl.Float64, "high": pl.Float64, "pairs_of_sets": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def beside_paper(separation: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Average P_B over the levels of each kind, beside the paper's.

    Columns: level, good, bad, p_b, strict, loose, ties (means over levels), low and high (middle 95 % of that mean
    when the sets or families are resampled; of a single level its own interval), lowest (the level with the smallest),
    levels (how many), paper.
    """
    rows = []
    several = pl.col("data").n_unique().over("by", "level") > 1
    whole = separation.filter((pl.col("data") == "mean") | ~several)
    for (by, good, bad), paper in PAPER.items():
        here = whole.filter((pl.col("by") == by) & (pl.col("good") == good) & (pl.col("bad") == bad))
        if here.is_empty():
            continue
        means = here.select(pl.col("p_b", "strict", "loose", "ties").mean()).row(0)
        own = here.select("low", "high").row(0)
        interval = middle(here["p_b"], seed, "levels", by, good, bad) if here.height > 1 else own
        lowest = here.sort("p_b").row(0, named=True)
        worst = f"{lowest['level']} {lowest['p_b']:.2f}"
        rows.append((WORDS[by], good, bad, *means, *interval, worst, here.height, paper))
    columns = [
        "level", "good", "bad", "p_b", "strict", "loose", "ties", "low", "high", "lowest", "levels", "paper",
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=columns, orient="row")


def pair_kinds(pairs: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Average over the pairs of each kind, with the middle 95 % when pairs are resampled.

    Columns: kind, pairs, barrier and middle (loss halfway − mean of the ends) with _low and _high, and the shares of
    pairs as_good_as_worse_end, as_good_as_line, better_than_both.
    """
    rows = []
    for (kind,), here in pairs.group_by("kind", maintain_order=True):
        row: dict[str, object] = {"kind": kind, "pairs": here.height}
        for name in ("barrier", "middle"):
            low, high = middle(here[name], seed, "pairs", kind, name)
            row |= {name: mean(here[name]), f"{name}_low": low, f"{name}_high": high}
        for name in ("as_good_as_worse_end", "as_good_as_line", "better_than_both"):
            row[name] = mean(here[name])
        rows.append(row)
    bounds = [f"{name}_{end}" for name in ("barrier", "middle") for end in ("low", "high")]
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(bounds, pl.Float64))


def mean_curves(places: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Average the losses along paths, from the mean of both ends on: kind, alpha, loss, low, high.

    low and high are the middle 95 % when pairs are resampled, the same pairs for all α.
    """
    pair = ["kind", "a", "b"]
    losses = places.group_by(*pair, "alpha", maintain_order=True).agg(pl.col("loss").mean())
    ends = losses.filter(pl.col("alpha").is_in([0.0, 1.0])).group_by(*pair).agg(end=pl.col("loss").mean())
    above = losses.join(ends, on=pair, maintain_order="left").with_columns(pl.col("loss") - pl.col("end"))
    rows = []
    for (kind, alpha), here in above.group_by("kind", "alpha", maintain_order=True):
        rows.append((kind, alpha, mean(here["loss"]), *middle(here["loss"], seed, "paths", kind)))
    numbers = dict.fromkeys(("alpha", "loss", "low", "high"), pl.Float64)
    return pl.DataFrame(rows, schema={"kind": pl.String, **numbers}, orient="row")


def count_sets(table: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Count sets on which the centre is better, equal, worse; with a sign test.

    Columns: regime, sets, better and worse (sign of the mean gain), surely_better and surely_worse (95 % interval on
    one side of 0), not_worse (mean gain ≥ 0), mean_gain with mean_gain_low and mean_gain_high (middle 95 % when sets
    are resampled), p_value (two-sided sign test, ties left out).
    """
    rows = []
    for (regime,), here in table.group_by("regime", maintain_order=True):
        gain = here["gain"]
        better, worse = int((gain > 0).sum()), int((gain < 0).sum())
        p_value = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
        rows.append((
            regime, len(here), better, worse, int((here["gain_low"] > 0).sum()), int((here["gain_high"] < 0).sum()),
            int((gain >= 0).sum()), mean(gain), *middle(gain, seed, "sets", regime), p_value,
        ))  # fmt: skip
    columns = [
        "regime", "sets", "better", "worse", "surely_better", "surely_worse", "not_worse", "mean_gain",
        "mean_gain_low", "mean_gain_high", "p_value",
    ]  # fmt: skip
    bounds = dict.fromkeys(("mean_gain_low", "mean_gain_high"), pl.Float64)
    return pl.DataFrame(rows, schema=columns, schema_overrides=bounds, orient="row")


def middle(values: pl.Series, seed: int, *names: Hashable) -> tuple[float, float] | tuple[None, None]:
    """Return the middle 95 % of the mean when the values are resampled, or None of a single one."""
    known = values.to_numpy().astype(np.float64)
    n = len(known)
    if n < 2:
        return None, None
    means = known[generator(seed, "resampled means", *names).integers(n, size=(_DRAWS, n))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def mean(values: pl.Series) -> float:
    """Return the mean of numbers as a float; NaN of none."""
    return float(np.mean(values.to_numpy())) if len(values) else float("nan")
