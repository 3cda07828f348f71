"""The loss over the plane of three models, and where the whole family lies on it."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from heredity.regions.ground import Ground
from heredity.regions.metrics import Metric
from heredity.regions.walk import plane
from heredity.run import Run


def survey_plane(
    run: Run,
    ground: Ground,
    metrics: Sequence[Metric],
    corners: tuple[str, str, str],
    *,
    steps: int = 9,
    margin: float = 0.5,
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Measure a grid and write the tables `plane` and `plane_members`; return what was found, in sentences.

    `plane` has x, y, data, loss, accuracy, note; `plane_members` name, x, y, distance, corner, and the loss at the
    member itself (which lies `distance` off the plane) on each set of data.
    """
    names = ground.names
    grid = plane(ground.products(names), names, *corners, steps=steps, margin=margin)
    measured = ground.measure(grid.places, metrics, say=say)
    where = {
        place.name: (float(x), float(y))
        for place, (y, x) in zip(grid.places, ((y, x) for y in grid.y for x in grid.x), strict=True)
    }
    table = measured.table()
    x, y = zip(*(where[name] for name in table["place"]), strict=True)
    surface = table.with_columns(pl.Series("x", x), pl.Series("y", y))
    surface = surface.select("x", "y", "data", "loss", "accuracy", "n", "note")
    own = ground.measure([ground.member(name) for name in names], metrics, say=say).table()
    members = pl.DataFrame(grid.members, schema=["place", "x", "y", "distance"], orient="row")
    members = members.join(
        own.select("place", "data", "loss", "accuracy"), on="place", how="left", maintain_order="left"
    )
    members = members.with_columns(corner=pl.col("place").is_in(list(corners)))
    run.write_table("plane", surface)
    run.write_table("plane_members", members)
    return plane_findings(surface, members, corners)


def plane_findings(surface: pl.DataFrame, members: pl.DataFrame, corners: Sequence[str]) -> list[str]:
    """Say where the lowest loss of each set of data is, against the three corners."""
    texts = []
    for data in surface["data"].unique(maintain_order=True).to_list():
        here = surface.filter((pl.col("data") == data) & pl.col("loss").is_finite())
        ends = members.filter((pl.col("data") == data) & pl.col("corner")).sort("loss")
        if here.is_empty():
            texts.append(f"On {data} no place of the plane has a finite loss.")
            continue
        low = here.sort("loss").row(0, named=True)
        best = ends.row(0, named=True)
        apart = float(np.hypot(low["x"] - best["x"], low["y"] - best["y"]))
        size = float(ends.select((pl.col("x") ** 2 + pl.col("y") ** 2).sqrt().max()).item())
        texts.append(
            f"On {data} the lowest loss of the grid is {low['loss']:.4f}, {apart / size:.2f} of the plane's width from "
            f"{best['place']}, the best of {', '.join(corners)} with {best['loss']:.4f}."
        )
    lost = surface.filter(pl.col("note") != "")
    if not lost.is_empty():
        texts.append(f"{lost.height} places have no finite loss, first: {lost['note'][0]}.")
    return texts
