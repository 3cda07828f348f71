"""How good the ground is inside, in between and outside the models of each label, at its edges and from its centre.

Levels: "general" (all members, against random directions from the base), and every value of a label with two
members or more (against all other members). In: the members; In′: as many mixtures of them; Ex: what is outside.
A group is measured on the data that belong to it: sets that are named as its value, or as a label of its members.

Source: Gueta et al. 2023, arXiv 2302.04863. The intervals, the edges of other pairs and the layers are ours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import polars as pl
from msgspec import Meta

from heredity.errors import ConfigError
from heredity.family import Family
from heredity.regions.edges import EdgeSettings, data_of, from_centre, metrics_of, walk_edges
from heredity.regions.evaluations import Measured
from heredity.regions.ground import Ground
from heredity.regions.metrics import Metric
from heredity.regions.place import Place, at
from heredity.regions.separation import chance, resampled, resampled_members, separation
from heredity.regions.walk import centroid, hull_samples, outside, spread
from heredity.run import Run
from heredity.seeds import generator

GENERAL = "general"
Count = Annotated[int, Meta(ge=0)]
Say = Callable[[str], None]


class RegionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a region is measured.

    Attributes:
        by: label that makes the groups; empty measures the general level only.
        samples: most mixtures (In′) of a group, and most random places outside (Ex) of the general level.
        redraws: times that members are resampled and mixtures drawn anew, for the interval.
        redraw_samples: mixtures of each of those.
        draws: resamples where nothing is measured anew.
    """

    by: str = ""
    samples: Annotated[int, Meta(ge=1)] = 20
    redraws: Count = 10
    redraw_samples: Annotated[int, Meta(ge=1)] = 3
    draws: Annotated[int, Meta(ge=1)] = 1000


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison of inside with outside.

    Attributes:
        name: "general", or the value of the label.
        inside: members that make the region.
        outside: members outside of it; empty at the general level, where random places are.
        data: sets that it is measured on.
    """

    name: str
    inside: tuple[str, ...]
    outside: tuple[str, ...]
    data: tuple[str, ...]


def survey_region(
    run: Run,
    family: Family,
    ground: Ground,
    metrics: Sequence[Metric],
    settings: RegionSettings,
    edges: EdgeSettings,
    *,
    unit: str = "",
    say: Say = lambda _: None,
) -> list[str]:
    """Measure and write the tables `separation`, `places`, `edges` and `directions`; return sentences.

    Args:
        run: the folder.
        family: labels of its members.
        ground: the family's.
        metrics: what to measure.
        settings: groups, and how much is drawn.
        edges: how far out is looked.
        unit: label whose values are resampled as a whole; empty resamples single members.
        say: takes a line of progress at a time.
    """
    data = [name for metric in metrics for name in metric.data]
    chosen = levels(family, ground, settings.by, data)
    separations, places = [], []
    for level in chosen:
        rows, table = compare_level(
            ground, metrics_of(metrics, level.data), level, settings, seed=run.seed,
            units=units_of(family, unit), say=say,
        )  # fmt: skip
        separations += rows
        places.append(table)
    found = pl.DataFrame(separations, schema_overrides={"p_value": pl.Float64})
    run.write_table("separation", found)
    run.write_table("places", pl.concat(places))
    if edges.pairs:
        run.write_table(
            "edges", walk_edges(family, ground, metrics, edges, by=settings.by, seed=run.seed, say=say)
        )
    if edges.directions:
        run.write_table(
            "directions", from_centre(ground, metrics, ground.members, edges, seed=run.seed, say=say)
        )
    return region_findings(run, found)


def levels(family: Family, ground: Ground, by: str, data: Sequence[str]) -> list[Level]:
    """Return the general level and one for each value of a label that two members or more have.

    Raises:
        ConfigError: no member has the label, or no value has two members.
    """
    members = ground.members
    found = [Level(name=GENERAL, inside=members, outside=(), data=tuple(data))]
    if not by:
        return found
    values = {name: value for name, value in labelled(family, by).items() if name in members}
    for value in sorted(dict.fromkeys(values.values())):
        inside = tuple(name for name in members if values.get(name) == value)
        if len(inside) < 2:
            continue
        outside = tuple(name for name in members if values.get(name) != value)
        own = data_of(family, inside, data) or tuple(name for name in data if name == value)
        if outside:
            found.append(Level(name=value, inside=inside, outside=outside, data=own or tuple(data)))
    if len(found) < 2:
        raise ConfigError(
            f"no value of {by!r} has two members", "group by a label that several members share"
        )
    return found


def labelled(family: Family, by: str) -> dict[str, str]:
    """Return the value of a label of every member that has it; nothing for the empty label.

    Raises:
        ConfigError: no member has the label.
    """
    values = {m.name: str(m.labels[by]) for m in family.members if by in m.labels}
    if by and not values:
        known = sorted({label for member in family.members for label in member.labels})
        raise ConfigError(
            f"no member of {family.name} has a label {by!r}", f"labels: {', '.join(known) or 'none'}"
        )
    return values


def units_of(family: Family, label: str) -> dict[str, str]:
    """Return the value of a label of every member that has it; what it names is resampled as a whole."""
    return {m.name: str(m.labels[label]) for m in family.members if label in m.labels}


def compare_level(
    ground: Ground,
    metrics: Sequence[Metric],
    level: Level,
    settings: RegionSettings,
    *,
    seed: int,
    units: Mapping[str, str] | None = None,
    say: Say = lambda _: None,
) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    """Measure one level; return the rows of its separations and the table of its places.

    Args:
        ground: the family.
        metrics: that measure the level's data.
        level: the groups.
        settings: how much is drawn.
        seed: of the draws.
        units: of each member, drawn as a whole for intervals (its data set); None draws single members.
        say: takes a line of progress at a time.
    """
    inside = [ground.member(name) for name in level.inside]
    mixtures = hull_samples(
        level.inside, min(settings.samples, len(inside)), seed=seed, name=f"{level.name} In′"
    )
    if level.outside:
        away = [ground.member(name) for name in level.outside]
    else:
        start, length = origin(ground, level.inside)
        away = outside(start, min(settings.samples, len(inside)), length, seed=seed, name=f"{level.name} Ex")
    groups = {"In": inside, "In′": mixtures, "Ex": away}
    measured = {
        role: _level_data(ground.measure(found, metrics, say=say), level) for role, found in groups.items()
    }
    alike = {name: (units or {}).get(name, name) for name in (*level.inside, *level.outside)}
    own, others = ([alike[name] for name in names] for names in (level.inside, level.outside))
    redrawn = _redrawn(ground, metrics, level, own, settings, seed=seed, say=say)
    rows = []
    for data in ["mean", *level.data] if len(level.data) > 1 else list(level.data):
        losses = {role: _losses(found, data) for role, found in measured.items()}
        drawn = resampled_pairs(
            losses, [(rows_, _losses(mixed, data)) for rows_, mixed in redrawn], own, others, settings.draws,
            seed=seed, name=f"{level.name} {data}",
        )  # fmt: skip
        by_chance = _by_chance(losses, own, others, seed=seed, name=f"{level.name} {data}")
        for (good, bad), again in drawn.items():
            rows.append(
                {"level": level.name, "data": data, "good": good, "bad": bad}
                | msgspec.structs.asdict(separation(losses[good], losses[bad], again))
                | {
                    "redraws": len(redrawn) if "In′" in (good, bad) else 0,
                    "p_value": by_chance if (good, bad) == ("In", "Ex") else None,
                }
            )
    tables = [
        found.table().with_columns(level=pl.lit(level.name), role=pl.lit(role))
        for role, found in measured.items()
    ]
    return rows, pl.concat(tables).select("level", "role", "place", "data", "loss", "accuracy", "n", "note")


def resampled_pairs(
    losses: Mapping[str, np.ndarray[Any, Any]],
    redrawn: Sequence[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]],
    own: Sequence[str],
    others: Sequence[str],
    draws: int,
    *,
    seed: int,
    name: str,
) -> dict[tuple[str, str], list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]]:
    """Draw the groups of every comparison anew, many times.

    In′ is drawn in two steps: one of the samples of members, then as many of its own mixtures as In′ has, beside the
    members of that sample. Without such samples the mixtures themselves are resampled.

    Args:
        losses: of the three groups.
        redrawn: rows of In, and the losses of mixtures of them, for each sample of members.
        own: unit of each member inside.
        others: unit of each member outside; empty where Ex are random places.
        draws: how many.
        seed: of the draws.
        name: keys them.
    """
    beyond = resampled(losses["Ex"], draws, seed=seed, name=f"{name} Ex", units=others or None)
    inside = [losses["In"][rows] for rows in resampled_members(own, draws, seed=seed, name=f"{name} In")]
    if redrawn:
        rng = generator(seed, "redrawn groups", name)
        chosen = [redrawn[int(rng.integers(len(redrawn)))] for _ in range(draws)]
        mixed = [mixtures[rng.integers(len(mixtures), size=len(losses["In′"]))] for _, mixtures in chosen]
        parents = [losses["In"][rows] for rows, _ in chosen]
    else:
        mixed = resampled(losses["In′"], draws, seed=seed, name=f"{name} In′")
        parents = inside
    return {
        ("In", "Ex"): list(zip(inside, beyond, strict=True)),
        ("In′", "Ex"): list(zip(mixed, beyond, strict=True)),
        ("In′", "In"): list(zip(mixed, parents, strict=True)),
    }


def origin(ground: Ground, members: Sequence[str]) -> tuple[Place, float]:
    """Return where random steps outside start and how long they are: the base, and the mean task vector's norm.

    Without a base: the members' centroid, and their mean distance from it.
    """
    if ground.has_base:
        return ground.member(ground.base), float(ground.norms(members).mean())
    return centroid(members), spread(ground.products(members))


def region_findings(run: Run, found: pl.DataFrame) -> list[str]:
    """Say how often inside beats outside, and where the ground ends."""
    texts = []
    for row in found.filter(
        (pl.col("data") == "mean") | (pl.col("data").n_unique().over("level") == 1)
    ).iter_rows(named=True):
        ties = f", ties {100 * row['ties']:.0f} %" if row["ties"] else ""
        texts.append(
            f"{row['level']}: {row['good']} is better than {row['bad']} in {100 * row['p_b']:.1f} % of pairs "
            f"(95 %: {100 * row['low']:.0f} to {100 * row['high']:.0f}; {row['n']} × {row['m']}{ties})."
        )
    if run.has_table("directions"):
        texts += _direction_findings(run.table("directions"))
    return texts


def _direction_findings(table: pl.DataFrame) -> list[str]:
    means = table.group_by("direction", "radius", maintain_order=True).agg(pl.col("loss").mean())
    start = means.filter(pl.col("radius") == 0)["loss"].mean()
    texts = []
    for radius in means["radius"].unique(maintain_order=True).to_list():
        here = means.filter(pl.col("radius") == radius)
        random = here.filter(pl.col("direction") != "towards the base")["loss"].mean()
        base = here.filter(pl.col("direction") == "towards the base")["loss"].mean()
        if radius in (1.0, 4.0) and isinstance(random, float) and isinstance(start, float):
            beside = f", towards the base {base - start:+.4f}" if isinstance(base, float) else ""
            texts.append(
                f"{radius:g} times the members' spread from their centroid, the mean loss changes by "
                f"{random - start:+.4f} in random directions{beside} (from {start:.4f})."
            )
    return texts


def _redrawn(
    ground: Ground, metrics: Sequence[Metric], level: Level, units: Sequence[str], settings: RegionSettings, *,
    seed: int, say: Say,
) -> list[tuple[np.ndarray[Any, Any], Measured]]:  # fmt: skip
    """Resample the members, and draw and measure mixtures of each sample."""
    found = []
    samples = resampled_members(units, settings.redraws, seed=seed, name=level.name)
    for number, rows in enumerate(samples):
        counts = np.bincount(rows, minlength=len(level.inside))
        kept = np.flatnonzero(counts)
        rng = generator(seed, "redrawn hull", level.name, number)
        shares = rng.dirichlet(counts[kept].astype(float), size=settings.redraw_samples)
        names = [level.inside[i] for i in kept]
        places = [at(f"{level.name} In′ {number}.{i}", names, row) for i, row in enumerate(shares)]
        found.append((rows, _level_data(ground.measure(places, metrics, say=say), level)))
    return found


def _by_chance(
    losses: Mapping[str, np.ndarray[Any, Any]], own: Sequence[str], others: Sequence[str], *, seed: int, name: str
) -> float | None:  # fmt: skip
    """Return the p-value of In against Ex where both are members, and no unit has members on both sides."""
    if not others or set(own) & set(others):
        return None
    inside = [True] * len(own) + [False] * len(others)
    return chance(np.concatenate([losses["In"], losses["Ex"]]), inside, [*own, *others], seed=seed, name=name)


def _level_data(measured: Measured, level: Level) -> Measured:
    return measured.of(level.data)


def _losses(measured: Measured, data: str) -> np.ndarray[Any, Any]:
    if data == "mean":
        means: np.ndarray[Any, Any] = measured.loss.mean(axis=1)
        return means
    return np.asarray(measured.loss[:, measured.data.index(data)])
