"""The map's page: who is related to whom, how closely, who descends from whom, and what chance would give."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import polars as pl

from heredity.report import family_tree, figures, map_figures
from heredity.report.html import Figure, Section, page
from heredity.report.palette import MEMBER_COLOURS
from heredity.report.view import View
from heredity.run import Run

COMMANDS = ("map",)

_DRAWN_TREE = 12
_CELLS = 300_000


def draw(run: Run) -> str:
    """Render the page of a map; what has no table yet says so."""
    view = _View(run)
    record = view.record
    name = record["config"].get("name", run.path.name)
    if not view.has("members", "pairs", "layout", "findings"):
        body = Section("map", "The map", "missing.j2", {"waits_for": "the tables of the map"})
        return page(title=f"A map of {name}", kicker="heredity map", lead=[], sections=[body])
    sections = [_warnings(view), _pictures(view), _scores(view), _similarity(view), _parting(view)]
    sections += [_ancestry(view), _bases(view), _members(view), _method(view)]
    return page(
        title=f"A map of {name}",
        kicker="heredity map · who is related, how closely, who descends from whom",
        lead=[text.replace(" %", "\u00a0%") for text in view.table("findings").sort("order")["text"]],
        sections=[section for section in sections if section is not None],
    )


class _View(View):
    """A map's tables, with the label that colours them."""

    @cached_property
    def label(self) -> str | None:
        """The first label that was scored."""
        return str(self.table("scores")["label"][0]) if self.has("scores") else None

    @cached_property
    def group_of(self) -> dict[str, str]:
        """Value of the colouring label, by model."""
        rows = self.table("members").select("member", "labels").iter_rows()
        values = {name: json.loads(labels) for name, labels in rows}
        return {name: str(of[self.label]) for name, of in values.items() if self.label in of}

    @cached_property
    def group_colours(self) -> dict[str, str]:
        """CSS variable of each value, in order of appearance."""
        values = dict.fromkeys(self.group_of.values())
        return {value: f"var(--member-{(1 + i) % MEMBER_COLOURS})" for i, value in enumerate(values)}

    @cached_property
    def model_colours(self) -> dict[str, str]:
        """CSS variable of each model: its label's, or grey."""
        return {name: self.group_colours[value] for name, value in self.group_of.items()}

    @cached_property
    def compared(self) -> list[str]:
        """The models that were compared, in the order of the dendrogram."""
        names = list(self.table("layout").filter(pl.col("picture") == "directions")["model"])
        return map_figures.leaf_order(self.table("dendrogram"), names) if len(names) > 1 else names

    def cosines(self, group: str) -> dict[tuple[str, str], float]:
        """Cosine of every pair, both ways round, in one group."""
        rows = (
            self.table("pairs")
            .filter(pl.col("group") == group)
            .select("first", "second", "cosine")
            .iter_rows()
        )
        return {pair: value for a, b, value in rows for pair in ((a, b), (b, a))}


def _warnings(view: _View) -> Section | None:
    if not view.has("warnings"):
        return None
    return Section(
        "warnings", "Read this first", "map_warnings.j2", {"rows": view.table("warnings").to_dicts()}
    )


def _pictures(view: _View) -> Section:
    trust = {row["picture"]: row for row in view.table("layout_trust").to_dicts()}
    known = view.record["config"].get("centre") is not True and _base(view) is not None
    texts = {
        "directions": "Directions: models are near when they moved the same way, however far "
        "(distance √(2 − 2·cosine) of their task vectors).",
        "places": "Places: models are near when their weights are (Euclidean distance)"
        + (f"; {_base(view)} is the cross." if known else "."),
    }
    drawings = []
    for picture, text in texts.items():
        points = view.table("layout").filter(pl.col("picture") == picture).drop("picture")
        drawn = map_figures.picture(points, trust[picture], view.group_of, view.group_colours, _base(view))
        drawings.append(Figure(name=f"map-{picture}", plot=drawn, caption=text, numbers=points, height=460))
    worst = max(row["stress"] for row in trust.values())
    return Section(
        "map", "The map", "map_pictures.j2", {"figures": drawings, "stress": worst, "label": view.label}
    )


def _scores(view: _View) -> Section | None:
    if not view.has("scores"):
        return None
    clusters = view.table("clusters") if view.has("clusters") else None
    config = view.record["config"]
    values = {
        "rows": view.table("scores").to_dicts(), "draws": config.get("permutations"),
        "units": config.get("units"),
        "eigengap_k": clusters["eigengap_k"][0] if clusters is not None else None,
    }  # fmt: skip
    return Section("scores", "Do the labels show in the weights?", "map_scores.j2", values)


def _similarity(view: _View) -> Section | None:
    names = view.compared
    if len(names) < 2:
        return None
    of = view.cosines("all")
    values = [[of.get((first, second)) for second in names] for first in names]
    leaves = list(view.table("layout").filter(pl.col("picture") == "directions")["model"])
    size = max(300, 20 * len(names))
    tree = Figure(
        name="dendrogram", plot=map_figures.dendrogram(view.table("dendrogram"), leaves, view.model_colours),
        caption="Average linkage of directions: the further right two branches meet, the less alike. "
        "The same tree as text is in dendrogram.nwk.",
        numbers=view.table("dendrogram"), height=size + 60,
    )  # fmt: skip
    heat = Figure(
        name="heatmap", plot=map_figures.heatmap(values, names),
        caption="Cosine of the task vectors of every pair, over all tensors; blank on the diagonal.",
        numbers=view.table("pairs").filter(pl.col("group") == "all").drop("group"),
        height=size + 90, min_width=min(15 * len(names) + 150, 1100),
    )  # fmt: skip
    return Section(
        "similarity",
        "Who is near whom",
        "map_similarity.j2",
        {"tree": tree, "heat": heat, "beside": len(names) <= 24},
    )


def _parting(view: _View) -> Section | None:
    groups = [g for g in view.table("pairs")["group"].unique(maintain_order=True) if g != "all"]
    names = view.compared
    if not groups or len(names) < 2:
        return None
    values: dict[str, Any] = {
        "what": view.record["config"]["group"],
        "label": view.label,
        "lines": None,
        "heat": None,
    }
    if len(names) ** 2 * len(groups) <= _CELLS:
        by_group = [view.cosines(group) for group in groups]
        cubes = {a: [[of.get((a, b)) for of in by_group] for b in names] for a in names}
        values["heat"] = Figure(
            name="parting", plot=map_figures.parting(cubes, groups, names),
            caption="Choose a model: its cosine with every other model in each group of tensors. Where two "
            "models part, the colour fades.",
            numbers=view.table("pairs").filter(pl.col("group") != "all").drop("pearson", "l2"),
            height=max(320, 20 * len(names) + 130) + map_figures.room(groups),
            min_width=min(240 + 46 * len(groups), 1100),
        )  # fmt: skip
    table = _by_group(view, groups)
    if table is not None:
        values["lines"] = Figure(
            name="by-group", plot=map_figures.by_group(table, groups, figures.label(str(view.label))),
            caption=f"Mean cosine of pairs that share their {view.label}, and of pairs that do not, "
            "in each group of tensors.",
            numbers=table, height=330 + map_figures.room(groups), min_width=min(120 + 60 * len(groups), 1100),
        )  # fmt: skip
    return Section("parting", "Where models part", "map_parting.j2", values)


def _by_group(view: _View, groups: list[str]) -> pl.DataFrame | None:
    if view.label is None:
        return None
    pairs = view.table("pairs").filter(pl.col("group") != "all")
    value = {
        column: pl.col(column).replace_strict(view.group_of, default=None) for column in ("first", "second")
    }
    same = pairs.with_columns(same=value["first"] == value["second"]).drop_nulls("same")
    means = same.group_by("group").agg(
        within=pl.col("cosine").filter(pl.col("same")).mean(),
        between=pl.col("cosine").filter(~pl.col("same")).mean(),
    )
    return pl.DataFrame({"group": groups}).join(means, on="group", how="left", maintain_order="left")


def _ancestry(view: _View) -> Section:
    rows = view.table("ancestry").to_dicts()
    parents = {row["member"]: row["parents"] for row in rows}
    ordered = _parents_first(parents)
    tree = None
    if len(rows) <= _DRAWN_TREE and not any(row["kind"] == "kin" for row in rows):
        lines = {row["member"]: (row["kind"], _made_of(row)) for row in rows}
        colours = {row["member"]: view.model_colours.get(row["member"], "var(--quiet)") for row in rows}
        tree = family_tree.lay_out(ordered, colours, lines, {})
    shown = sorted(
        (row for row in rows if row["kind"] != "base"), key=lambda row: _told_first(row, _base(view))
    )
    values = {"tree": tree, "rows": shown, "colours": view.model_colours}
    return Section("ancestry", "Who descends from whom", "map_ancestry.j2", values)


def _made_of(row: Mapping[str, Any]) -> str:
    parts = zip(row["coefficients"], row["parents"], strict=False)
    return " + ".join(f"{weight:.2f} {parent}" for weight, parent in parts)


def _told_first(row: Mapping[str, Any], base: str | None) -> int:
    """Put what a reader could not guess before the plain fine-tunes of the base."""
    kinds = ("merge", "near merge", "copy", "finetune", "kin")
    return len(kinds) if row["kind"] == "finetune" and row["parents"] == [base] else kinds.index(row["kind"])


def _bases(view: _View) -> Section | None:
    if not view.has("nearest"):
        return None
    rows = view.table("nearest").sort("related", "correlation").to_dicts()
    several = any(row["margin"] is not None for row in rows)
    values = {"rows": rows, "colours": view.model_colours, "several": several}
    return Section(
        "bases",
        "The nearest base",
        "map_bases.j2",
        values,
    )


def _members(view: _View) -> Section:
    hulls = view.table("hulls").filter(pl.col("group") == "all members") if view.has("hulls") else None
    about = {row["member"]: row for row in hulls.to_dicts()} if hulls is not None else {}
    rows = [row | {"hull": about.get(row["member"])} for row in view.table("members").to_dicts()]
    found = (
        dict(view.table("clusters").select("member", "cluster").iter_rows()) if view.has("clusters") else {}
    )
    for row in rows:
        row["cluster"] = found.get(row["member"])
        row["told"] = ", ".join(f"{key} {value}" for key, value in json.loads(row["labels"]).items())
    values = {"rows": rows, "colours": view.model_colours, "kinship": view.table("kinship").to_dicts()}
    return Section("members", "The models", "map_members.j2", values)


def _method(view: _View) -> Section:
    config = view.record["config"]
    centred = _base(view) is None or config.get("centre") is True
    asked = {name: bool(config.get(name)) for name in ("include_head", "equal_weight")}
    values = asked | {"centred": centred, "base": _base(view), "seed": view.record["seed"]}
    return Section("method", "How this was made", "map_method.j2", values)


def _base(view: _View) -> str | None:
    given = view.record["config"].get("base")
    bases = list(view.table("members").filter(pl.col("relation") == "base")["member"])
    return given or (bases[0] if len(bases) == 1 else None)


def _parents_first(parents: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Order models so that every parent comes before its children."""
    done: dict[str, list[str]] = {}
    while len(done) < len(parents):
        ready = {
            n: p
            for n, p in parents.items()
            if n not in done and all(q in done or q not in parents for q in p)
        }
        if not ready:
            return dict(parents)
        done |= ready
    return done
