"""What the study found, in sentences: each number beside the paper's, each claim with its interval."""

import numpy as np
import polars as pl

from heredity.regions.ground import Ground
from heredity.run import Run
from heredity.studies.regions.config import RegionsStudy

PAPER = {
    ("data", "In", "Ex"): 1.000, ("data", "In′", "Ex"): 1.000, ("data", "In′", "In"): 0.880,
    ("family", "In", "Ex"): 0.753, ("family", "In′", "Ex"): 1.000, ("family", "In′", "In"): 0.967,
    ("general", "In", "Ex"): 0.898, ("general", "In′", "Ex"): 1.000, ("general", "In′", "In"): 0.900,
}  # fmt: skip
"""P_B of arXiv 2302.04863: one data set (MNLI), one task (NLI), general; RoBERTa-base."""
WORDS = {"data": "same set", "family": "same family", "general": "general"}


def findings(run: Run, config: RegionsStudy) -> pl.DataFrame:
    """Return the table of findings, of what is measured so far: order, text."""
    texts: list[str] = []
    for table, say in (
        ("clusters", _clusters), ("kinship_kinds", _controls), ("separation", _separation),
        ("interpolation_pairs", _interpolation), ("directions", _directions), ("centre_count", _centre),
        ("starts", _starts),
    ):  # fmt: skip
        if run.has_table(table):
            texts += say(run.table(table))
    return pl.DataFrame({"order": list(range(len(texts))), "text": texts})


def beside_paper(separation: pl.DataFrame) -> pl.DataFrame:
    """Average P_B over the levels of each kind, beside the paper's.

    Columns: level, good, bad, p_b, strict, loose, ties, low, high (means over levels), lowest (the level with the
    smallest), levels (how many), paper.
    """
    rows = []
    several = pl.col("data").n_unique().over("by", "level") > 1
    whole = separation.filter((pl.col("data") == "mean") | ~several)
    for (by, good, bad), paper in PAPER.items():
        here = whole.filter((pl.col("by") == by) & (pl.col("good") == good) & (pl.col("bad") == bad))
        if not here.is_empty():
            means = here.select(pl.col("p_b", "strict", "loose", "ties", "low", "high").mean()).row(0)
            lowest = here.sort("p_b").row(0, named=True)
            worst = f"{lowest['level']} {lowest['p_b']:.2f}"
            rows.append((WORDS[by], good, bad, *means, worst, here.height, paper))
    columns = [
        "level", "good", "bad", "p_b", "strict", "loose", "ties", "low", "high", "lowest", "levels", "paper",
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=columns, orient="row")


def compute_table(run: Run, ground: Ground) -> pl.DataFrame:
    """Return what every stage cost: stage, wall_seconds, cpu_seconds; members' fine-tunes are added up."""
    stages = run.record()["stages"]
    sums: dict[str, list[float]] = {}
    for name, facts in stages.items():
        stage = "fine-tunes of members" if "rows" in facts or "tokens" in facts else name
        before = sums.setdefault(stage, [0.0, 0.0, 0])
        sums[stage] = [before[0] + facts["wall_seconds"], before[1] + facts["cpu_seconds"], before[2] + 1]
    rows: list[tuple[str, float, float | None, int]] = [
        (stage, wall, cpu, int(count)) for stage, (wall, cpu, count) in sums.items()
    ]
    measured = sum(ground.evaluations.seconds.values())
    rows.append(("all measured places, whichever run", measured, None, len(ground.evaluations.seconds)))
    return pl.DataFrame(rows, schema=["stage", "wall_seconds", "cpu_seconds", "count"], orient="row")


def _clusters(table: pl.DataFrame) -> list[str]:
    texts = []
    for label in table["label"].unique(maintain_order=True).to_list():
        rows = table.filter((pl.col("label") == label) & (pl.col("method") != "average")).to_dicts()
        here = {row["score"]: row for row in rows}
        hit, gap = here["accuracy"], here["separation"]
        interval = (
            f", 95 % {100 * hit['low']:.0f} to {100 * hit['high']:.0f}" if hit["low"] is not None else ""
        )
        what = "sets" if label == "data" else "families"
        paper = "98" if label == "data" else "90"
        texts.append(
            f"Clusters of task vectors find the {what} with {100 * hit['value']:.0f} % accuracy{interval} (chance "
            f"{100 * hit['null_mean']:.0f} %, p = {hit['p_value']:.2g}; the paper: {paper} %); cosines are "
            f"{gap['value']:.3f} higher within (p = {gap['p_value']:.2g})."
        )
    return texts


def _controls(table: pl.DataFrame) -> list[str]:
    parts = [
        f"{row['cosine']:.3f} ({row['low']:.3f} to {row['high']:.3f}) {row['kind']}"
        for row in table.to_dicts()
    ]
    return [f"Mean cosine of two models: {'; '.join(parts)}."]


def _separation(table: pl.DataFrame) -> list[str]:
    return [
        f"P_B({row['good']}, {row['bad']}), {row['level']}: {100 * row['p_b']:.1f} % "
        f"({100 * row['low']:.0f} to {100 * row['high']:.0f}; the paper: {100 * row['paper']:.1f} %)."
        for row in beside_paper(table).to_dicts()
        if row["bad"] == "Ex"
    ]


def _interpolation(table: pl.DataFrame) -> list[str]:
    texts = []
    for (kind,), here in table.group_by("kind", maintain_order=True):
        mean = {c: _mean(here[c]) for c in ("barrier", "middle", "as_good_as_worse_end", "better_than_both")}
        texts.append(
            f"Between two models of {kind}: mean barrier {mean['barrier']:.4f} nats, the middle "
            f"{mean['middle']:+.4f} against the mean of the ends; nowhere worse than the worse end on "
            f"{100 * mean['as_good_as_worse_end']:.0f} % of {here.height} pairs, somewhere better than both on "
            f"{100 * mean['better_than_both']:.0f} %."
        )
    return texts


def _directions(table: pl.DataFrame) -> list[str]:
    means = table.group_by("direction", "radius", maintain_order=True).agg(pl.col("loss").mean())
    far = max(means["radius"].to_list(), default=0.0)
    inward = pl.col("direction") == "towards the base"
    start = means.filter(pl.col("radius") == 0)["loss"]
    outer = means.filter(pl.col("radius") == far)
    random, base = outer.filter(~inward)["loss"], outer.filter(inward)["loss"]
    if not len(start) or not len(random) or not len(base):
        return []
    return [
        f"{far:g} times the members' spread from their centre, the loss rises by {_mean(random) - _mean(start):.3f} "
        f"in random directions and by {_mean(base) - _mean(start):.3f} towards (and past) the base."
    ]


def _mean(values: pl.Series) -> float:
    """Return the mean of numbers as a float; NaN of none."""
    return float(np.mean(values.to_numpy())) if len(values) else float("nan")


def _centre(table: pl.DataFrame) -> list[str]:
    return [
        f"Starting from the centre, not the base ({row['regime']}): better on {row['better']} of {row['sets']} "
        f"sets, worse on {row['worse']} ({row['surely_better']} and {row['surely_worse']} beyond 95 % intervals), "
        f"mean gain {100 * row['mean_gain']:+.1f} points, sign test p = {row['p_value']:.2g}."
        for row in table.to_dicts()
    ]


def _starts(table: pl.DataFrame) -> list[str]:
    return [
        f"start on {row['data']}: {row['chosen']}, {100 * row['accuracy']:.1f} % against "
        f"{100 * row['best_accuracy']:.1f} % of the best of {row['candidates']} ({row['best']}): gap "
        f"{100 * row['gap']:+.1f} points ({100 * row['gap_low']:+.1f} to {100 * row['gap_high']:+.1f}), at "
        f"{100 * row['cost_share']:.0f} % of the cost."
        for row in table.to_dicts()
    ]
