"""What a walk from one model to another is like: losses on the way, its barrier, which parts of the model matter.

A barrier is max over α in [0, 1] of loss(α) − the line between the ends' losses. It is 0 where nothing in between is
worse; then the gain says how much better the best place in between is than the better end.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl

from heredity.errors import ConfigError
from heredity.regions.evaluations import Measured, resampled_means
from heredity.regions.ground import Ground
from heredity.regions.metrics import Metric
from heredity.regions.place import Place, moving, selection
from heredity.regions.walk import Line, barrier, line
from heredity.run import Run

WHOLE = "all"
DRAWS = 1000


class PathSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a path is walked.

    Attributes:
        steps: places from end to end.
        extrapolate: largest α; the smallest is 1 − it.
        edge_steps: places past each end, in log steps.
        move: parts of the model to move alone, beside the whole walk: attention, mlp, layers>=2 …
    """

    steps: int = 11
    extrapolate: float = 1.0
    edge_steps: int = 6
    move: tuple[str, ...] = ()


def walk_path(
    run: Run,
    ground: Ground,
    metrics: Sequence[Metric],
    a: str,
    b: str,
    settings: PathSettings,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Measure a path and write the tables `path` and `barriers`; return what was found, in sentences."""
    points, barriers = [], []
    for moved, way in variants(ground, a, b, settings):
        measured = ground.measure(way.places, metrics, say=say)
        table = path_table(measured, way)
        points.append(table.with_columns(pl.lit(moved).alias("moved")))
        barriers += [{"moved": moved, **row} for row in barrier_rows(measured, way, seed=run.seed)]
    path = pl.concat(points).select("moved", "alpha", "data", "loss", "accuracy", "n", "note")
    found = pl.DataFrame(barriers)
    run.write_table("path", path)
    run.write_table("barriers", found)
    return path_findings(a, b, path, found)


def variants(ground: Ground, a: str, b: str, settings: PathSettings) -> list[tuple[str, Line]]:
    """Return the whole walk, then those on which some tensors alone move and the others stay at `a`."""
    whole = line(a, b, steps=settings.steps, extrapolate=settings.extrapolate, edge_steps=settings.edge_steps)
    found = [(WHOLE, whole)]
    start = ground.member(a)
    for part in settings.move:
        if not any(map(selection(part), ground.tensors)):
            raise ConfigError(
                f"--move {part}: {a} has no such tensor", "`heredity inspect` lists its tensors"
            )
        places: list[Place] = []
        for place in whole.places:
            moved = moving(place, start, ground.tensors, selection(part))
            places.append(msgspec.structs.replace(moved, name=f"{place.name}, {part} only"))
        found.append((part, Line(alphas=whole.alphas, places=tuple(places))))
    return found


def path_table(measured: Measured, way: Line) -> pl.DataFrame:
    """Give a row for each α and set of data."""
    alphas = dict(zip(measured.places, way.alphas, strict=True))
    table = measured.table()
    return table.with_columns(
        alpha=pl.Series([alphas[name] for name in table["place"]], dtype=pl.Float64)
    ).drop("place")


def barrier_rows(measured: Measured, way: Line, *, seed: int) -> list[dict[str, Any]]:
    """Give barrier and gain on each set of data and on their mean, with the middle 95 % of resamples of its rows.

    Columns: data, barrier, barrier_low, barrier_high, gain, gain_low, gain_high, best_alpha, loss_a, loss_b, best_loss.
    """
    alphas = np.array(way.alphas)
    columns: list[tuple[str, Any, Any]] = []
    for column, data in enumerate(measured.data):
        scores = [row[column] for row in measured.scores]
        columns.append((data, measured.loss[:, column], resampled_means(scores, DRAWS, seed=seed, name=data)))
    if len(columns) > 1:
        draws = [drawn for _, _, drawn in columns]
        whole = None if any(d is None for d in draws) else np.mean(draws, axis=0)
        columns.append(("mean", measured.loss.mean(axis=1), whole))
    rows = []
    for data, losses, drawn in columns:
        inside = (alphas >= 0) & (alphas <= 1)
        best = int(np.flatnonzero(inside)[losses[inside].argmin()])
        row = {"data": data, "barrier": barrier(way.alphas, losses.tolist()), "gain": gain(alphas, losses)}
        for name, statistic in (
            ("barrier", lambda v: barrier(way.alphas, v)),
            ("gain", lambda v: gain(alphas, v)),
        ):
            values = None if drawn is None else np.array([statistic(v) for v in drawn])
            known = values is not None and np.isfinite(values).all()
            low, high = (
                np.quantile(values, [0.025, 0.975]) if known and values is not None else (np.nan, np.nan)
            )
            row |= {f"{name}_low": float(low), f"{name}_high": float(high)}
        row |= {
            "best_alpha": float(alphas[best]), "loss_a": float(losses[alphas == 0][0]),
            "loss_b": float(losses[alphas == 1][0]), "best_loss": float(losses[best]),
        }  # fmt: skip
        rows.append(row)
    return rows


def gain(alphas: Any, losses: Any) -> float:
    """Return the better end's loss − the lowest loss strictly in between; negative where an end is the best place."""
    a, values = np.asarray(alphas), np.asarray(losses)
    between = values[(a > 0) & (a < 1)]
    ends = values[(a == 0) | (a == 1)].min()
    return float(ends - between.min()) if len(between) and np.isfinite(ends) else float("nan")


def path_findings(a: str, b: str, path: pl.DataFrame, barriers: pl.DataFrame) -> list[str]:
    """Say in plain sentences what the path is like."""
    texts = []
    for row in barriers.iter_rows(named=True):
        where = f"on {row['data']}" + ("" if row["moved"] == WHOLE else f", when {row['moved']} alone moves")
        if row["barrier"] <= 0 or row["barrier"] < 1e-9:
            above = "nothing between is above the line from end to end"
        else:
            above = f"the barrier is {row['barrier']:.4f} nats"
        best = (
            f"the best place is α = {row['best_alpha']:.2f} with loss {row['best_loss']:.4f}, "
            f"{row['gain']:.4f} below the better end"
            if row["gain"] > 0
            else f"the better end is the best place (loss {min(row['loss_a'], row['loss_b']):.4f})"
        )
        texts.append(f"From {a} to {b} {where}: {above}; {best}.")
    broken = path.filter(pl.col("note") != "")
    for note in broken["note"].unique(maintain_order=True).to_list():
        rows = broken.filter(pl.col("note") == note)
        texts.append(f"At {rows['alpha'].n_unique()} places, first α = {rows['alpha'][0]:.4g}: {note}.")
    return texts
