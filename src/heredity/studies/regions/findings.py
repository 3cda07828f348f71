"""What the study found, in sentences: each number beside the paper's, each claim with its interval."""

import re

import polars as pl

from heredity.regions.ground import Ground
from heredity.run import Run
from heredity.studies.regions.summaries import mean

_KINDS = {"same set": "one set", "same family": "two sets of one family", "other family": "two families"}


def findings(run: Run) -> pl.DataFrame:
    """Return the table of findings, of what is measured so far: order, text."""
    texts: list[str] = []
    for table, say in (
        ("clusters", _clusters), ("kinship_kinds", _controls), ("beside_paper", _separation),
        ("interpolation_kinds", _interpolation), ("directions", _directions), ("centre_count", _centre),
        ("starts", _starts),
    ):  # fmt: skip
        if run.has_table(table):
            texts += say(run.table(table))
    signs = [re.sub(r"(?<=[( ])-(?=\d)", "−", text) for text in texts]  # a minus, as in the tables
    return pl.DataFrame({"order": list(range(len(signs))), "text": signs})


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
        f"{row['cosine']:.3f}{_interval(row['low'], row['high'], '.3f')} {row['kind']}"
        for row in table.to_dicts()
    ]
    return [f"Mean cosine of two models: {'; '.join(parts)}."]


def _separation(table: pl.DataFrame) -> list[str]:
    return [
        f"P_B({row['good']}, {row['bad']}), {row['level']}: {100 * row['p_b']:.1f} % "
        f"({100 * row['low']:.0f} to {100 * row['high']:.0f}; the paper: {100 * row['paper']:.1f} %)."
        for row in table.to_dicts()
        if row["bad"] == "Ex"
    ]


def _interpolation(table: pl.DataFrame) -> list[str]:
    return [
        f"Between two models of {_KINDS[row['kind']]}: the middle is {row['middle']:+.4f} nats against the mean of the "
        f"ends{_interval(row['middle_low'], row['middle_high'], '+.4f')}, the barrier {row['barrier']:.4f}"
        f"{_interval(row['barrier_low'], row['barrier_high'], '.4f')}; nowhere worse than the worse end on "
        f"{100 * row['as_good_as_worse_end']:.0f} % of {row['pairs']} pairs, somewhere better than both on "
        f"{100 * row['better_than_both']:.0f} % (the paper: in between is as good as the ends, or better)."
        for row in table.to_dicts()
    ]


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
        f"{far:g} times the members' spread from their centre, the loss rises by {mean(random) - mean(start):.3f} "
        f"in random directions and by {mean(base) - mean(start):.3f} towards (and past) the base."
    ]


def _centre(table: pl.DataFrame) -> list[str]:
    return [
        f"Starting from the centre, not the base ({row['regime']}): better on {row['better']} of {row['sets']} "
        f"sets, worse on {row['worse']} ({row['surely_better']} and {row['surely_worse']} beyond 95 % intervals), "
        f"mean gain {100 * row['mean_gain']:+.1f} points"
        f"{_interval(row['mean_gain_low'], row['mean_gain_high'], '+.1f', 100)}, sign test p = {row['p_value']:.2g}"
        f"{_paper(row['regime'])}."
        for row in table.to_dicts()
    ]


def _interval(low: float | None, high: float | None, form: str, times: float = 1) -> str:
    """Give an interval in brackets; nothing where a single value has none."""
    return "" if low is None or high is None else f" ({times * low:{form}} to {times * high:{form}})"


def _paper(regime: str) -> str:
    return "; the paper: better on 9 of 12, worse on 1, +4.0 points" if regime.startswith("bitfit") else ""


def _starts(table: pl.DataFrame) -> list[str]:
    return [
        f"start on {row['data']}: {row['chosen']}, {100 * row['accuracy']:.1f} % against "
        f"{100 * row['best_accuracy']:.1f} % of the best of {row['candidates']} ({row['best']}): gap "
        f"{100 * row['gap']:+.1f} points ({100 * row['gap_low']:+.1f} to {100 * row['gap_high']:+.1f}), at "
        f"{100 * row['cost_share']:.0f} % of the cost."
        for row in table.to_dicts()
    ]
