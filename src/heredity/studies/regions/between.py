"""Clusters of members, the ground between them, inside and outside, and models of the same texts with other labels."""

from collections.abc import Callable
from typing import Any

import polars as pl

from heredity.anatomy import is_head
from heredity.geometry.similarity import cosine
from heredity.geometry.survey import Survey
from heredity.gram import Gram
from heredity.regions.edges import from_centre, metrics_of, walk_edges
from heredity.regions.ground import gram_of
from heredity.regions.path import barrier_rows, path_table
from heredity.regions.region import compare_level, levels, units_of
from heredity.regions.walk import line
from heredity.run import Run
from heredity.seeds import generator
from heredity.studies.regions.config import RegionsStudy
from heredity.studies.regions.material import Material
from heredity.studies.regions.summaries import KINSHIP

Say = Callable[[str], None]
KINDS = ("same set", "same family", "other family")


def cluster(run: Run, config: RegionsStudy, material: Material) -> None:
    """Write `clusters`: clusters of members against sets and families, with nulls, and `pairs`: every cosine."""
    gram = _without_heads(material.ground.gram)
    survey = Survey(gram, base_known=True)
    sets = material.data
    families = {name: config.groups[data] for name, data in sets.items()}
    scores = [survey.scores("data", sets, draws=config.permutations, seed=run.seed)]
    if 2 <= len(set(families.values())) < len(config.groups):
        scores.append(survey.scores("family", families, units=sets, draws=config.permutations, seed=run.seed))
    run.write_table("clusters", pl.concat(scores))
    positions, trust = survey.layouts()
    run.write_table("layout", positions.filter(pl.col("picture") == "directions").with_columns(
        data=pl.Series([sets[name] for name in positions.filter(pl.col("picture") == "directions")["model"]])
    ))  # fmt: skip
    run.write_table("layout_trust", trust)


def interpolate(run: Run, config: RegionsStudy, material: Material, say: Say) -> None:
    """Write `interpolation` (every place) and `interpolation_pairs` (a barrier and a gain for each pair and set)."""
    tables, summaries = [], []
    for kind, a, b in pairs_to_walk(config, material, seed=run.seed):
        own = tuple(dict.fromkeys([material.data[a], material.data[b]]))
        way = line(a, b, steps=config.walks.steps)
        measured = material.ground.measure(way.places, metrics_of(material.metrics, own), say=say).of(own)
        what = {"kind": kind, "a": a, "b": b}
        tables.append(path_table(measured, way).with_columns(**{k: pl.lit(v) for k, v in what.items()}))
        losses = measured.loss.mean(axis=1)
        rows = {row["data"]: row for row in barrier_rows(measured, way, seed=run.seed)}
        row = rows.get("mean") or rows[own[0]]
        inside = losses[1:-1]
        summaries.append(what | row | {
            "middle": float(losses[len(losses) // 2] - (losses[0] + losses[-1]) / 2),
            "as_good_as_worse_end": bool(inside.max() <= max(losses[0], losses[-1])),
            "as_good_as_line": bool(row["barrier"] <= 1e-3),
            "better_than_both": bool(inside.min() < min(losses[0], losses[-1])),
        })  # fmt: skip
    columns = ("kind", "a", "b", "alpha", "data", "loss", "accuracy", "note")
    run.write_table("interpolation", pl.concat(tables).select(columns))
    run.write_table("interpolation_pairs", pl.DataFrame(summaries))


def pairs_to_walk(config: RegionsStudy, material: Material, *, seed: int) -> list[tuple[str, str, str]]:
    """Draw pairs of members: of one set, of two sets of one family, of two families."""
    data, members = material.data, material.ground.members
    every = [(a, b) for i, a in enumerate(members) for b in members[i + 1 :]]

    def kind_of(a: str, b: str) -> str:
        if data[a] == data[b]:
            return KINDS[0]
        return KINDS[1] if config.groups[data[a]] == config.groups[data[b]] else KINDS[2]

    found = []
    for kind in KINDS:
        pairs = [(a, b) for a, b in every if kind_of(a, b) == kind]
        chosen = generator(seed, "pairs to walk", kind).permutation(len(pairs))[: config.walks.pairs]
        found += [(kind, *pairs[i]) for i in sorted(chosen.tolist())]
    return found


def separate(run: Run, config: RegionsStudy, material: Material, say: Say) -> None:
    """Write `separation` and `places`: general, every family of several sets, every set."""
    ground, metrics = material.ground, material.metrics
    data = [name for metric in metrics for name in metric.data]
    units = units_of(material.family, "data")
    rows: list[dict[str, Any]] = []
    tables = []
    for by in ("family", "data"):
        for level in levels(material.family, ground, by, data):
            one_set = len({units[name] for name in level.inside}) == 1
            if (level.name == "general" and by == "data") or (one_set and by == "family"):
                continue  # a family of one set is that set's level
            made, table = compare_level(
                ground,
                metrics_of(metrics, level.data),
                level,
                config.region,
                seed=run.seed,
                units=units,
                say=say,
            )
            what = "general" if level.name == "general" else by
            rows += [{"by": what, **row} for row in made]
            tables.append(table.with_columns(by=pl.lit(what)))
    found = pl.DataFrame(rows, schema_overrides={"p_value": pl.Float64})
    run.write_table("separation", found)
    run.write_table("places", pl.concat(tables))


def find_edges(run: Run, config: RegionsStudy, material: Material, say: Say) -> None:
    """Write `edges` (past the ends of pairs) and `directions` (from the centroid; one set for each family)."""
    ground, metrics = material.ground, material.metrics
    run.write_table("edges", walk_edges(
        material.family, ground, metrics, config.edges, by="data", seed=run.seed, say=say
    ))  # fmt: skip
    first: dict[str, str] = {}
    for name, family in config.groups.items():
        first.setdefault(family, name)
    table = from_centre(
        ground,
        metrics_of(metrics, tuple(first.values())),
        ground.members,
        config.edges,
        seed=run.seed,
        say=say,
    )
    run.write_table("directions", table.filter(pl.col("data").is_in(list(first.values()))))


def control(run: Run, config: RegionsStudy, material: Material) -> None:
    """Write `kinship_pairs`: cosines of pairs by what the two models share; the texts alone, for the controls."""
    family = material.everyone
    names = [m.name for m in family.members if m.name != "base"]
    labels = {m.name: m.labels for m in family.members}
    views = {name: family.checkpoint(name) for name in ["base", *names]}
    store = run.folder("ground") / "controls.safetensors"
    gram = _without_heads(gram_of(views, "base", store, include_head=False))
    similarity = cosine(gram.total()["all"].deltas)
    rows = []
    for i, a in enumerate(names):
        for j in range(i + 1, len(names)):
            x, y = (str(labels[n]["data"]) for n in (a, names[j]))
            same_family = labels[a]["family"] == labels[names[j]]["family"]
            if x == y:
                kind = KINSHIP[0]
            elif config.controls.get(x) == y:
                kind = KINSHIP[1]
            else:
                kind = KINSHIP[2] if same_family else KINSHIP[3]
            rows.append((kind, x, y, float(similarity[i, j])))
    pairs = pl.DataFrame(rows, schema=["kind", "first", "second", "cosine"], orient="row")
    run.write_table("kinship_pairs", pairs)


def _without_heads(gram: Gram) -> Gram:
    return gram.only(lambda name: not is_head(name))
