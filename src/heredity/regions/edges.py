"""Where the ground ends: past both ends of pairs of members, and from the centre outwards.

Source: Gueta et al. 2023, arXiv 2302.04863: flat inside, cliffs outside; towards the base the loss stays low.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec
import numpy as np
import polars as pl
from msgspec import Meta

from heredity.family import Family
from heredity.regions.ground import Ground
from heredity.regions.metrics import Metric
from heredity.regions.place import Direction, Place, at, step
from heredity.regions.walk import centroid, line, spread, towards
from heredity.seeds import generator

Say = Callable[[str], None]


class EdgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far out is looked.

    Attributes:
        pairs: pairs of members of one label, and as many of two, whose edges are walked.
        edge: largest α past an end.
        edge_steps: log steps to it.
        directions: random directions from the centroid, beside the one towards the base.
        radii: how far, in units of the members' mean distance from the centroid.
    """

    pairs: Annotated[int, Meta(ge=0)] = 2
    edge: Annotated[float, Meta(gt=1)] = 32.0
    edge_steps: Annotated[int, Meta(ge=1)] = 5
    directions: Annotated[int, Meta(ge=0)] = 3
    radii: tuple[Annotated[float, Meta(ge=0)], ...] = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def walk_edges(
    family: Family,
    ground: Ground,
    metrics: Sequence[Metric],
    settings: EdgeSettings,
    *,
    by: str,
    seed: int,
    say: Say = lambda _: None,
) -> pl.DataFrame:
    """Walk past both ends of pairs of members: columns kind, a, b, alpha, data, loss, accuracy, note.

    Each pair is measured on the data that belong to its models; "mean" is over them.
    """
    data = [name for metric in metrics for name in metric.data]
    tables = []
    for kind, a, b in pairs_of(family, ground.members, by, settings.pairs, seed=seed):
        own = data_of(family, (a, b), data) or tuple(data)
        way = line(a, b, steps=3, extrapolate=settings.edge, edge_steps=settings.edge_steps)
        table = ground.measure(way.places, metrics_of(metrics, own), say=say).of(own).table()
        alphas = {place.name: alpha for place, alpha in zip(way.places, way.alphas, strict=True)}
        tables.append(table.with_columns(
            kind=pl.lit(kind), a=pl.lit(a), b=pl.lit(b),
            alpha=pl.Series([alphas[name] for name in table["place"]], dtype=pl.Float64),
        ).select("kind", "a", "b", "alpha", "data", "loss", "accuracy", "n", "note"))  # fmt: skip
    return pl.concat(tables)


def pairs_of(
    family: Family, members: Sequence[str], by: str, count: int, *, seed: int
) -> list[tuple[str, str, str]]:
    """Draw pairs of members of one value of a label ("same") and of two ("different"), `count` of each.

    Without a label all pairs are "any".
    """
    values = {m.name: m.labels.get(by, m.name) for m in family.members} if by else {}
    every = [(a, b) for i, a in enumerate(members) for b in members[i + 1 :]]
    kinds: Mapping[str, list[tuple[str, str]]] = {
        "same": [(a, b) for a, b in every if by and values[a] == values[b]],
        "different": [(a, b) for a, b in every if by and values[a] != values[b]],
        "any": [] if by else every,
    }
    rng = generator(seed, "pairs", by)
    return [
        (kind, *pairs[i])
        for kind, pairs in kinds.items()
        for i in sorted(rng.permutation(len(pairs))[:count].tolist())
    ]


def from_centre(
    ground: Ground,
    metrics: Sequence[Metric],
    members: Sequence[str],
    settings: EdgeSettings,
    *,
    seed: int,
    say: Say = lambda _: None,
) -> pl.DataFrame:
    """Walk from the centroid in random directions and towards the base.

    Columns direction ("towards the base", "random 0" …), radius (in units of the members' mean distance from the
    centroid), distance, data, loss, accuracy, note.
    """
    middle = centroid(members)
    unit = spread(ground.products(members))
    products = ground.products(members)
    to_base = float(np.sqrt(max(products.mean(), 0.0)))
    places: list[tuple[str, float, Place]] = []
    for radius in settings.radii:
        if ground.has_base and to_base > 0:
            name = f"towards the base, {radius:g}"
            places.append(
                ("towards the base", radius, towards(middle, ground.base, radius * unit / to_base, name))
            )
        for number in range(settings.directions):
            label = f"random {number}"
            if radius == 0:
                shares = middle.point.for_tensor("")
                places.append((label, 0.0, at(f"{label}, 0", middle.point.members, shares)))
                continue
            away = Direction(seed=seed, name=label, length=radius * unit)
            places.append((label, radius, step(f"{label}, {radius:g}", middle, away)))
    table = ground.measure([place for _, _, place in places], metrics, say=say).table()
    known = {place.name: (direction, radius) for direction, radius, place in places}
    return table.with_columns(
        direction=pl.Series([known[name][0] for name in table["place"]]),
        radius=pl.Series([known[name][1] for name in table["place"]], dtype=pl.Float64),
        distance=pl.Series([known[name][1] * unit for name in table["place"]], dtype=pl.Float64),
    ).select("direction", "radius", "distance", "data", "loss", "accuracy", "n", "note")


def data_of(family: Family, members: Sequence[str], data: Sequence[str]) -> tuple[str, ...]:
    """Return the sets of data that some label of these members names."""
    named = {str(value) for m in family.members if m.name in members for value in m.labels.values()}
    return tuple(name for name in data if name in named)


def metrics_of(metrics: Sequence[Metric], data: Sequence[str]) -> list[Metric]:
    """Return the metrics that measure on some of these sets."""
    return [metric for metric in metrics if any(name in data for name in metric.data)]
