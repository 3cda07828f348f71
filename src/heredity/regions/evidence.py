"""Why a start was chosen, as tables: every candidate with what is known of it, round by round, and the cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from heredity.errors import StoreError
from heredity.regions.candidates import Candidate
from heredity.regions.evaluations import Score
from heredity.regions.start import Start
from heredity.seeds import generator


def evidence(start: Start, found: Sequence[Candidate], *, seed: int, draws: int = 2000) -> pl.DataFrame:
    """Return what is known of every candidate, the chosen one first.

    Columns: candidate, kind, cluster, proxy_loss, rung (last that it took part in, −1 for none), validation_loss,
    validation_accuracy, test_accuracy (at that rung), gap with gap_low and gap_high (accuracy on the validation rows
    against the chosen one at the same rung, middle 95 % of resampled rows), chosen.
    """
    chosen = start.chosen.place.name
    rows = []
    for candidate in found:
        name = candidate.place.name
        rungs = [rung for rung in start.rungs if name in rung.names]
        row: dict[str, Any] = {
            "candidate": name, "kind": candidate.kind, "cluster": candidate.cluster,
            "proxy_loss": start.proxies.get(name), "rung": rungs[-1].number if rungs else -1,
            "validation_loss": None, "validation_accuracy": None, "test_accuracy": None, "gap": None,
            "gap_low": None, "gap_high": None, "chosen": name == chosen,
        }  # fmt: skip
        if rungs:
            last = rungs[-1]
            i, j = last.names.index(name), last.names.index(chosen)
            gap, low, high = paired(last.hits[i], last.hits[j], draws, seed=seed, name=name)
            row |= {
                "validation_loss": last.loss[i], "validation_accuracy": last.accuracy[i],
                "test_accuracy": last.test_accuracy[i], "gap": gap, "gap_low": low, "gap_high": high,
            }  # fmt: skip
        rows.append(row)
    rows.sort(
        key=lambda row: (not row["chosen"], -row["rung"], row["proxy_loss"] is None, row["proxy_loss"] or 0.0)
    )
    schema = dict.fromkeys(
        (
            "proxy_loss",
            "validation_loss",
            "validation_accuracy",
            "test_accuracy",
            "gap",
            "gap_low",
            "gap_high",
        ),
        pl.Float64,
    )
    return pl.DataFrame(rows, schema_overrides=schema)


def paired(
    first: np.ndarray[Any, Any], second: np.ndarray[Any, Any], draws: int, *, seed: int, name: str
) -> tuple[float, float, float]:
    """Return the mean difference of two values of the same rows, and the middle 95 % over resampled rows."""
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    n = len(difference)
    counts = generator(seed, "paired rows", name).multinomial(n, np.full(n, 1 / n), size=draws)
    low, high = np.quantile(counts @ difference / n, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def rung_table(start: Start) -> pl.DataFrame:
    """Return a row for each candidate of each rung, best first."""
    rows = [
        (rung.number, rung.rows, name, rung.loss[i], rung.accuracy[i], rung.test_accuracy[i])
        for rung in start.rungs
        for i, name in enumerate(rung.names)
    ]
    columns = ("rung", "rows", "candidate", "validation_loss", "validation_accuracy", "test_accuracy")
    return pl.DataFrame(rows, schema=list(columns), orient="row")


def cost_table(start: Start) -> pl.DataFrame:
    """Return what was passed forwards, in rows, against tuning every candidate in full."""
    cost = start.cost
    rows = [
        (part, cost[part], cost[part] / cost["brute force"])
        for part in ("proxy", "tuning", "all", "brute force")
    ]
    return pl.DataFrame(rows, schema=["part", "rows_forward", "share"], orient="row")


def start_findings(start: Start, table: pl.DataFrame, count: int) -> list[str]:
    """Say what was chosen, how sure that is, and what it cost."""
    last = start.rungs[-1]
    texts = [
        f"Start from {start.chosen.place.name}: tuned in full it has accuracy {last.accuracy[0]:.3f} on validation "
        f"rows and {last.test_accuracy[0]:.3f} on test rows."
    ]
    rivals = table.filter(~pl.col("chosen") & pl.col("gap").is_not_null())
    close = rivals.filter(pl.col("gap_high") >= 0)
    if rivals.height:
        texts.append(
            f"Of {rivals.height} rivals that were tuned beside it, {close.height} cannot be told from it "
            f"(95 % interval of the difference in accuracy reaches 0)"
            + (f": {', '.join(close['candidate'].to_list())}." if close.height else ".")
        )
    texts.append(
        f"{count} candidates, {len(start.proxies)} scored by the proxy; cost "
        f"{100 * start.cost['of brute force']:.0f} % of tuning them all."
    )
    return texts


def paired_over_seeds(
    first: Sequence[Score], second: Sequence[Score], *, seed: int, name: str, draws: int = 2000
) -> tuple[float, float, float]:
    """Return the mean difference of accuracy over seeds and rows, and the middle 95 % of resamples of both.

    Args:
        first: one score for each seed, on the same rows.
        second: the same seeds from another start.
        seed: of the resamples.
        name: keys them.
        draws: how many.
    """
    a, b = (np.array([_right(score) for score in scores], np.float64) for scores in (first, second))
    seeds, n = a.shape
    weights = np.ones(n) if first[0].weights is None else first[0].weights.astype(np.float64)
    rng = generator(seed, "paired over seeds", name)
    rows = rng.multinomial(n, np.full(n, 1 / n), size=draws) * weights
    by_seed = (rows @ (a - b).T) / rows.sum(axis=1, keepdims=True)  # [draws, seeds]
    chosen = rng.integers(seeds, size=(draws, seeds))
    low, high = np.quantile(np.take_along_axis(by_seed, chosen, axis=1).mean(axis=1), [0.025, 0.975])
    return float((((a - b) @ weights) / weights.sum()).mean()), float(low), float(high)


def _right(score: Score) -> np.ndarray[Any, Any]:
    if score.hits is None:
        raise StoreError(f"{score.data}: no rows were kept", "measure it again in a new folder")
    return score.hits
