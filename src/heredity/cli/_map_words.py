"""What a map says in words: what was found, and what a reader must know before believing it."""

from typing import Any

import polars as pl

from heredity.family import Family
from heredity.geometry.survey import Survey
from heredity.gram import Gram

SMALL_STEP = 1e-2
"""Below this ‖Δ‖/‖w‖, rounding that members of different formats share looks like kinship."""


def findings_of(
    survey: Survey, base: str | None, scores: list[dict[str, Any]], ancestry: list[dict[str, Any]]
) -> list[str]:
    """Say in plain sentences what the numbers say: clusters against labels, merges, chains."""
    origin = f"measured from {base}" if survey.base_known else "measured from the mean of the members"
    texts = [f"{len(survey.names)} models, {survey.total.size:,} weights each, {origin}."]
    by = {(row["label"], row["method"], row["score"]): row for row in scores}
    for label in dict.fromkeys(row["label"] for row in scores):
        hit, gap = by[label, "spectral", "accuracy"], by[label, "none", "separation"]
        texts.append(
            f"Clusters find {label} with {100 * hit['value']:.0f} % accuracy "
            f"(chance {100 * hit['null_mean']:.0f} %, p = {hit['p_value']:.2g}); models of one {label} are "
            f"{gap['value']:.3f} more alike in cosine than others "
            f"(95th percentile of chance {gap['null_p95']:.3f}, p = {gap['p_value']:.2g})."
        )
    for row in ancestry:
        if row["kind"] in ("merge", "near merge"):
            terms = " + ".join(
                f"{c:.2f} {p}" for c, p in zip(row["coefficients"], row["parents"], strict=True)
            )
            texts.append(f"{row['member']} is a {row['kind']}: {terms} (residual {row['residual']:.2g}).")
        elif row["kind"] == "finetune" and base is not None and row["parents"] != [base]:
            texts.append(f"{row['member']} goes on from {row['parents'][0]}, not from {base}.")
    return texts


def warnings_of(
    gram: Gram,
    family: Family,
    survey: Survey,
    members: pl.DataFrame,
    lines: pl.DataFrame,
    near: pl.DataFrame | None,
    base: str | None,
) -> list[tuple[str, str]]:
    """Return (kind, text) of everything that can mislead a reader of this map."""
    found = [*_formats(gram, family, survey, members, base), *_origin(base, near)]
    for member, kind, parents in lines.select("member", "kind", "parents").iter_rows():
        if kind == "copy":
            text = f"{member} has the same weights as {parents[0]}: copies make clusters of their own"
            found.append(("copy", text))
    found += _strangers(near) if near is not None else []
    for row in lines.filter(~pl.col("agrees")).iter_rows(named=True):
        said, seen = ", ".join(row["declared"]) or "nobody", ", ".join(row["parents"]) or "nobody"
        found.append(("parents", f"{row['member']} is said to come from {said}; its weights say {seen}"))
    if len(survey.names) < 4:
        count = "one model is" if len(survey.names) == 1 else f"{len(survey.names)} models are"
        found.append(("few members", f"{count} compared: too few for clusters or a picture"))
    if gram.left_out:
        first = next(iter(gram.left_out))
        more = f" and {len(gram.left_out) - 1} more" if len(gram.left_out) > 1 else ""
        found.append(("left out", f"not compared: {first} ({gram.left_out[first]}){more}"))
    return found


def _strangers(near: pl.DataFrame) -> list[tuple[str, str]]:
    return [
        (
            "stranger",
            f"{row['member']} is not related to {row['base']}: their weights correlate "
            f"{row['correlation']:.3f}, element by element",
        )
        for row in near.filter(~pl.col("related")).iter_rows(named=True)
    ]


def _formats(
    gram: Gram, family: Family, survey: Survey, members: pl.DataFrame, base: str | None
) -> list[tuple[str, str]]:
    formats = list(dict.fromkeys(gram.dtypes[member.name] for member in family.members))
    steps = members.filter(pl.col("delta_norm_rel") > 0)["delta_norm_rel"].to_list() if base else []
    if len(formats) < 2 or (steps and min(steps) >= SMALL_STEP):
        return []
    size = f" while the smallest change is ‖Δ‖/‖w‖ = {min(steps):.1e}" if steps else ""
    cure = "--centre takes that away" if survey.base_known else "centring on their mean has taken that away"
    return [(
        "mixed dtypes",
        f"models are stored in {' and '.join(formats)}{size}: rounding that they share looks like kinship; "
        f"{cure}, and the share of unchanged weights says how much of each model moved at all",
    )]  # fmt: skip


def _origin(base: str | None, near: pl.DataFrame | None) -> list[tuple[str, str]]:
    if base is not None:
        return []
    if near is not None:
        return [("bases", "there is more than one base: similarities are about the mean of all models")]
    text = "similarities are about the mean of the models, and fine-tunes have no direction"
    return [("no base", f"no base is known: {text}")]
