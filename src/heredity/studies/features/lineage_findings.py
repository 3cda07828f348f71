"""Sentences on what was inherited: edges, consensus features, other matchings, the released code's rule, the merge."""

from typing import Any

import polars as pl

from heredity.features.l0 import unequal_l0
from heredity.studies.features.config import Tracked
from heredity.studies.features.wording import number, span


def edges(edges: pl.DataFrame, *, shared_start: bool = False) -> list[str]:
    """Say what persists on every edge, between floor and ceiling, and where the two sides' L0 are too unequal.

    Args:
        edges: at the chosen τ.
        shared_start: SAEs of one seed began at each other, and the shares are between different seeds.
    """
    between = " in an SAE of another seed" if shared_start else ""
    sentences = []
    for row in edges.iter_rows(named=True):
        ratio = (
            "; no heritability can be given, for the ceiling does not stand clear of the floor"
            if row["heritability"] is None
            else f", which makes a heritability of {_with_interval(row)}"
        )
        sentences.append(
            f"From {row['parent']} to {row['child']}, {row['persist']:.1%} of features persist at "
            f"r ≥ {row['tau']:.2f}{between}: by chance {row['floor']:.1%} would, and two SAEs of one model share "
            f"{row['ceiling']:.1%}{ratio}{_uneven(row)}."
        )
    return sentences


def lost(edges: pl.DataFrame, agreed: pl.DataFrame) -> list[str]:
    """Say how much of a parent is gone in the child, by the verdicts' own shares.

    Args:
        edges: at the chosen τ.
        agreed: the table `consensus_edges`; may be empty.
    """
    gone, unsure = _mean(edges["disappear"]), _mean(edges["undecided"])
    rare = _mean(edges["rare_parent"] / (edges["rare_parent"] + edges["n_parent"]))
    twin = 1 - _mean(edges["ceiling"])
    seldom = f" ({rare:.0%} of those that fire do so too rarely)" if round(rare, 2) else ""
    whole = (
        f"Of a parent's latents that can be judged{seldom}, on average {gone:.0%} disappear in the child and "
        f"{unsure:.0%} are undecided"
    )
    agreed = agreed.drop_nulls("vanish") if agreed.height else agreed  # seeds may agree on nothing
    if agreed.height:
        return [
            f"{whole}, but in a second SAE of the same model {twin:.0%} have no match either. Of the features that "
            f"most seeds agree on, {_mean(agreed['vanish']):.0%} vanish and "
            f"{_mean(agreed['undecided']):.0%} are undecided."
        ]
    if twin > 0.5 * gone:
        return [
            f"{whole}, but in a second SAE of the same model {twin:.0%} have no match either: most of what looks "
            "lost is the SAE's choice, not the fine-tune's."
        ]
    return [f"{whole}, against {twin:.0%} without a match in a second SAE of the same model."]


def consensus(members: pl.DataFrame, agreed: pl.DataFrame, edges: pl.DataFrame) -> list[str]:
    """Say how much seeds agree on, and how much of that is found in the children.

    Args:
        members: the table `consensus`; may be empty.
        agreed: the table `consensus_edges`; may be empty.
        edges: of all latents, at the chosen τ.
    """
    whole = members.filter(pl.col("held_out").is_null()).drop_nulls("found") if members.height else members
    found = agreed.drop_nulls("found") if agreed.height else agreed
    if not whole.height or not found.height:
        return []
    every = edges.select("parent", "child", all="heritability")
    both = found.join(every, on=["parent", "child"], how="left", maintain_order="left")
    each = "; ".join(
        f"{row['parent']} → {row['child']} {row['found']:.0%}"
        + (
            ""
            if row["heritability"] is None
            else f", heritability {_with_interval(row)}"
            + ("" if row["all"] is None else f" (of all latents {row['all']:.2f})")
        )
        for row in both.iter_rows(named=True)
    )
    return [
        f"What most of a member's {whole['n_seeds'][0]} seeds agree on takes in {span(whole['share_of_latents'])} of "
        f"its latents; a seed left out finds {span(whole['found'], digits=0)} of these features again.",
        f"How many of them an SAE of the child finds, where chance gives at most "
        f"{number(found['floor'].max()):.1%}: {each}.",
    ]


def matchings(table: pl.DataFrame, tau: float) -> list[str]:
    """Say how far the answer hangs on the way of matching.

    Args:
        table: `matchings`; may be empty.
        tau: the chosen τ.
    """
    if not table.height:
        return []
    own = table.filter((pl.col("tau") - tau).abs() < 1e-9).drop_nulls("ceiling").filter(pl.col("ceiling") > 0)
    if not own.height:
        return []
    parts = []
    for name, words in (
        ("best", "best partner"), ("mutual", "mutual best partners"), ("hungarian", "one to one"),
    ):  # fmt: skip
        rows = own.filter(matching=name)
        parts.append(
            f"{words} {span(rows['persist'])} ({span(rows['persist'] / rows['ceiling'], digits=0)} of the ceiling)"
        )
    false = own.filter(matching="best")["fdr_high"].max()
    bound = (
        ""
        if false is None
        else f" At most {number(false):.2%} of the best matches are what chance would give."
    )
    return [
        f"Share of a parent's latents matched at r ≥ {tau:.2f}, by way of matching: {', '.join(parts)}.{bound}"
    ]


def historical(table: pl.DataFrame) -> list[str]:
    """Say what the rule of the paper's released code counts, with its null; the table may be empty."""
    if not table.height:
        return []
    seen, shifted = (table.filter(codes=codes) for codes in ("observed", "shifted"))
    return [
        f"By the rule of the paper's released code (r ≥ {table['tau'][0]:.2f} on token means) "
        f"{span(seen['persist'])} of a parent's latents would persist, and still {span(shifted['persist'])} with "
        f"the child shifted so that nothing is shared token by token; by the rule used here, between the same "
        f"SAEs, {span(seen['ours'])} and {span(shifted['ours'])}."
    ]


def inheritance(inheritance: pl.DataFrame) -> list[str]:
    """Say in which parents the features of every merge are found."""
    sentences = []
    for (merge, left, right), rows in inheritance.group_by("merge", "left", "right", maintain_order=True):
        share = dict(rows.select("kind", "share").iter_rows())
        found = rows.filter(pl.col("kind").is_in(["left only", "right only", "both"]))
        chance, again = number(found["floor"].sum()), found["ceiling"].max()
        ceiling = "" if again is None else f", and a second SAE of {merge} finds {number(again):.1%} again"
        sentences.append(
            f"Of the features of {merge} {share['both']:.1%} are found in both parents, {share['left only']:.1%} "
            f"only in {left}, {share['right only']:.1%} only in {right}, and {share['neither']:.1%} in neither; "
            f"by chance {chance:.1%} would be found in one{ceiling}."
        )
    return sentences


def universal(
    universal: pl.DataFrame,
    edges: pl.DataFrame,
    latents: pl.DataFrame,
    config: Tracked,
    *,
    shared_start: bool = False,
) -> str:
    """Say how many features are matched in all members.

    Args:
        universal: the table.
        edges: at the chosen τ.
        latents: the table.
        config: of the study.
        shared_start: the members' first SAEs go back to one start, so that no pair of seeds is their ceiling.
    """
    count = universal["index"].n_unique() if universal.height else 0
    judged = latents.filter(pl.col("firings") > 0, ~pl.col("rare"), member=config.root, seed=0).height
    own = edges.filter(parent=config.root)
    both = "both members" if len(config.members) == 2 else f"all {len(config.members)} members"
    # What is matched in all members is matched on each of the root's edges: the lower floor bounds its chance.
    chance = number(own["floor"].min())
    again = (
        "and these SAEs go back to one start, so that they have no ceiling"
        if shared_start
        else f"and a second SAE of {config.root} finds {number(own['ceiling_parent'].max()):.1%} again"
    )
    return (
        f"{count:,} features of {config.root}'s first SAE are matched in {both}: "
        f"{count / max(1, judged):.1%} of those that can be judged, where chance gives at most {chance:.1%} {again}."
    )


def _uneven(row: dict[str, Any]) -> str:
    """Say what makes an edge's shares doubtful where the mean L0 of its two sides differ by more than 20 %."""
    ends = {name: float(row[name]) for name in ("l0_parent", "l0_child") if row.get(name) is not None}
    if not unequal_l0(ends):
        return ""
    each = f"{ends['l0_parent']:.1f} in {row['parent']} and {ends['l0_child']:.1f} in {row['child']}"
    return f". To be read with care: L0 is {each}"


def _with_interval(row: dict[str, Any]) -> str:
    return f"{row['heritability']:.2f} [{row['heritability_low']:.2f}, {row['heritability_high']:.2f}]"


def _mean(shares: pl.Series) -> float:
    return number(shares.mean())
