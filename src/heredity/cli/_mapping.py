"""What `heredity map` does: measure, make the tables, warn, say what was found, write the page."""

import json
import re
from collections.abc import Hashable
from typing import Any

import msgspec
import numpy as np
import polars as pl
from tqdm import tqdm

from heredity.atomic import write_text
from heredity.cli._map_words import findings_of, warnings_of
from heredity.errors import ConfigError
from heredity.family import Family
from heredity.geometry import newick
from heredity.geometry.descent import descent, nearest_bases
from heredity.geometry.similarity import distance
from heredity.geometry.survey import Survey
from heredity.gram import Gram
from heredity.run import Run

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for; see `heredity map --help`."""

    base: str | None = None
    by: tuple[str, ...] = ()
    units: str | None = None
    clusters: int | None = None
    group: str = "layer"
    centre: bool = False
    equal_weight: bool = False
    include_head: bool = False
    allow_partial: bool = False
    allow_nonfinite: bool = False
    permutations: int = 1000

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values


def size_in_bytes(text: str) -> int:
    """Read a size such as 512MB, 2G or 1073741824; a unit is a power of 1024.

    Raises:
        ConfigError: it is not one.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*", text.upper())
    if not found:
        raise ConfigError(f"--max-memory {text!r} is not a size", "write 512MB or 2G")
    return int(float(found[1]) * _UNITS[found[2]])


def check(family: Family, settings: Settings) -> None:
    """Refuse what cannot be mapped before a weight is read.

    Raises:
        ConfigError: fewer than two members, an unknown base, a label that no member has.
    """
    if len(family.members) < 2:
        raise ConfigError(
            f"family {family.name} has one member ({family.members[0].name})",
            "a map needs at least two models",
        )
    if settings.base is not None:
        family.member(settings.base)
    known = sorted({label for member in family.members for label in member.labels})
    for label in (*settings.by, *filter(None, [settings.units])):
        if label not in known:
            have = (
                f"labels: {', '.join(known)}"
                if known
                else "no member has labels: add them to the family file"
            )
            raise ConfigError(f"no member of {family.name} has a label {label!r}", have)


def map_family(
    run: Run,
    family: Family,
    settings: Settings,
    *,
    jobs: int,
    ray: str | None,
    max_memory: int,
    progress: bool,
) -> dict[str, Any]:
    """Fill the run: gram.safetensors, tables, map.json, Newick files, report.html.

    Returns:
        What map.json holds: findings, warnings and the numbers behind them.
    """
    from heredity.report import write_report

    gram = _measure(run, family, settings, jobs=jobs, ray=ray, max_memory=max_memory, progress=progress)
    run.start_stage()
    base = settings.base or (family.base.name if family.base else None)
    survey = _survey(gram, base, settings)
    bases = (
        [base]
        if base
        else [m.name for m in family.members if m.relation == "base" and len(family.members) > 1]
    )
    if len(bases) == len(family.members):
        bases = []
    near = nearest_bases(gram, bases) if bases else None
    lines = _descent(gram, family, bases, near)
    members = _members(gram, family, survey, base)
    warnings = warnings_of(gram, family, survey, members, lines, near, base)
    _tables(run, survey, family, settings, members, lines, near, warnings)
    _trees(run, gram, survey, base)
    result = _result(run, survey, base, warnings)
    write_text(run.path / "map.json", json.dumps({"schema": 1, **result}, indent=1, allow_nan=False) + "\n")
    run.finish_stage("tables")
    write_report(run)
    run.finish_stage("report")
    return result


def _measure(
    run: Run,
    family: Family,
    settings: Settings,
    *,
    jobs: int,
    ray: str | None,
    max_memory: int,
    progress: bool,
) -> Gram:
    run.start_stage()
    checkpoints = family.checkpoints()
    elements = sum(t.size for c in checkpoints.values() for t in c.tensors.values()) // len(checkpoints)
    reference = settings.base or (family.base.name if family.base else None)
    with tqdm(total=elements, unit="weights", unit_scale=True, disable=not progress, leave=False) as bar:
        gram = Gram.compute(
            family,
            reference=reference,
            members=[m.name for m in family.members if m.name != reference],
            include_head=settings.include_head,
            allow_partial=settings.allow_partial,
            nonfinite="leave out" if settings.allow_nonfinite else "error",
            elements=True,
            jobs=jobs,
            ray=ray,
            max_memory=max_memory,
            store=run.path / "gram.safetensors",
            progress=lambda _, size: bar.update(size) and None,
        )
    run.finish_stage("gram", tensors=len(gram.tensors), elements=sum(t.size for t in gram.tensors.values()))
    return gram


def _survey(gram: Gram, base: str | None, settings: Settings) -> Survey:
    if base is None or settings.centre:
        gram = gram.centre()
    known = base is not None and not settings.centre
    return Survey(gram, base_known=known, equal_weight=settings.equal_weight)


def _descent(gram: Gram, family: Family, bases: list[str], near: pl.DataFrame | None) -> pl.DataFrame:
    """Find parents within the relatives of each base; strangers get an undirected tree of their own."""
    names = [member.name for member in family.members]
    if near is None:
        found = descent(gram, {None: names})
    else:
        families: dict[str | None, list[str]] = {base: [] for base in bases}
        for member, base, related in near.select("member", "base", "related").iter_rows():
            families.setdefault(base if related else None, []).append(member)
        found = descent(gram, families)
    declared = {member.name: list(member.parents) for member in family.members}
    agrees = [
        None if not declared[name] or kind in ("kin", "base") else sorted(declared[name]) == sorted(parents)
        for name, kind, parents in found.select("member", "kind", "parents").iter_rows()
    ]
    return found.with_columns(
        pl.Series("declared", [declared[name] for name in found["member"]], pl.List(pl.String)),
        pl.Series("agrees", agrees, pl.Boolean),
    )


def _members(gram: Gram, family: Family, survey: Survey, base: str | None) -> pl.DataFrame:
    """Describe every model: declared parents, labels, format, how far it moved and how much of it did not."""
    norms = dict(zip(survey.names, np.sqrt(np.maximum(np.diagonal(survey.total.deltas), 0.0)), strict=True))
    reference = float(np.sqrt(survey.total.products[0, 0]))
    elements = sum(tensor.size for tensor in gram.tensors.values())
    unchanged = sum((c.unchanged for c in gram.elements.values()), np.zeros(len(gram.members)))
    share = dict(zip(gram.members, (unchanged / elements).tolist(), strict=True)) if gram.elements else {}
    rows = []
    for member in family.members:
        own = norms.get(member.name)
        rows.append({
            "member": member.name, "relation": member.relation, "parents": list(member.parents),
            "labels": json.dumps(member.labels, ensure_ascii=False), "dtype": gram.dtypes.get(member.name),
            "elements": elements,
            "delta_norm": None if own is None else float(own),
            "delta_norm_rel": None if own is None or reference <= 0 else float(own) / reference,
            "unchanged_share": None if base in (None, member.name) else share.get(member.name),
        })  # fmt: skip
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "member": pl.String, "relation": pl.String, "parents": pl.List(pl.String), "labels": pl.String,
        "dtype": pl.String, "elements": pl.Int64, "delta_norm": pl.Float64, "delta_norm_rel": pl.Float64,
        "unchanged_share": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def _tables(
    run: Run, survey: Survey, family: Family, settings: Settings, members: pl.DataFrame, lines: pl.DataFrame,
    near: pl.DataFrame | None, warnings: list[tuple[str, str]],
) -> None:  # fmt: skip
    group = settings.group
    positions, trust = survey.layouts()
    pairs = [survey.pairs("all"), *([survey.pairs(group)] if group != "all" else [])]
    run.write_table("members", members)
    run.write_table("pairs", pl.concat(pairs, how="vertical_relaxed"))
    run.write_table("layout", positions)
    run.write_table("layout_trust", trust)
    run.write_table("dendrogram", survey.dendrogram())
    run.write_table("ancestry", lines)
    run.write_table("kinship", survey.kinship())
    run.write_table(
        "warnings", pl.DataFrame(warnings, schema={"kind": pl.String, "text": pl.String}, orient="row")
    )
    if near is not None:
        run.write_table("nearest", near)
    groups = {"all members": list(survey.names)}
    scores = []
    values = _labels(family, survey)
    for label in settings.by or _telling(values):
        labels = values[label]
        units = values[settings.units] if settings.units and settings.units != label else None
        for value in dict.fromkeys(labels.values()):
            groups[f"{label} = {value}"] = [name for name in survey.names if labels.get(name) == value]
        scores.append(survey.scores(label, labels, units=units, draws=settings.permutations, seed=run.seed))
    if scores:
        run.write_table("scores", pl.concat(scores))
    run.write_table("hulls", survey.hulls(groups))
    if len(survey.names) > 1:
        found = survey.clusters(settings.clusters)
        chosen = "given" if settings.clusters else "eigengap"
        rows = [
            {
                "member": name,
                "cluster": int(label),
                "k": found.k,
                "eigengap_k": found.eigengap_k,
                "chosen_by": chosen,
            }
            for name, label in zip(survey.names, found.labels, strict=True)
        ]
        run.write_table("clusters", pl.DataFrame(rows))


def _labels(family: Family, survey: Survey) -> dict[str, dict[str, Hashable]]:
    """Map label → member → value, over the members of the survey that have it."""
    found: dict[str, dict[str, Hashable]] = {}
    for member in family.members:
        for label, value in member.labels.items():
            if member.name in survey.names:
                found.setdefault(label, {})[member.name] = value
    return found


def _telling(values: dict[str, dict[str, Hashable]]) -> list[str]:
    """Return the labels that can be scored: two values or more, one of them on two members or more."""
    return [
        label
        for label, of in values.items()
        if 2 <= len(dict.fromkeys(of.values())) < len(of) and label != "seed"
    ]


def _trees(run: Run, gram: Gram, survey: Survey, base: str | None) -> None:
    """Write dendrogram.nwk (by direction) and tree.nwk (unrooted, by distance, the base a leaf)."""
    from heredity.geometry.similarity import chord

    write_text(run.path / "dendrogram.nwk", newick.hierarchy(survey.names, chord(survey.cosine)) + "\n")
    total = gram.total("all")["all"]
    names = [name for name in gram.members if name != gram.reference]
    rows = [gram.members.index(name) for name in names]
    deltas = np.pad(total.deltas[np.ix_(rows, rows)], ((1, 0), (1, 0)))
    tree = newick.neighbour_joining([gram.reference, *names], distance(deltas))
    write_text(run.path / "tree.nwk", tree + "\n")


def _result(run: Run, survey: Survey, base: str | None, warnings: list[tuple[str, str]]) -> dict[str, Any]:
    """Collect what map.json holds, and write the findings as plain sentences."""
    scores = run.table("scores").to_dicts() if run.has_table("scores") else []
    ancestry = run.table("ancestry").to_dicts()
    trust = {row["picture"]: row for row in run.table("layout_trust").to_dicts()}
    texts = findings_of(survey, base, scores, ancestry)
    table = pl.DataFrame(
        {"order": range(len(texts)), "text": texts}, schema={"order": pl.Int64, "text": pl.String}
    )
    run.write_table("findings", table)
    return {
        "reference": survey.gram.reference, "members": list(survey.names), "findings": texts,
        "warnings": [text for _, text in warnings], "scores": scores, "ancestry": ancestry,
        "nearest": run.table("nearest").to_dicts() if run.has_table("nearest") else [],
        "kinship": {row["variant"]: row["kinship"] for row in run.table("kinship").to_dicts()},
        "pictures": trust,
    }  # fmt: skip
