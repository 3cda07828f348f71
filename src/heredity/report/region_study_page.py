"""The page of the study of regions: its findings beside the paper's, each with the numbers behind it."""

from collections.abc import Callable

import polars as pl

from heredity.report import region_figures as figures
from heredity.report.html import Figure, Section, page
from heredity.report.palette import member_colours
from heredity.report.region_page import (
    direction_section,
    edge_section,
    notes_section,
    part,
    separation_sections,
    settings_section,
    spaced,
)
from heredity.report.view import View
from heredity.run import Run

COMMANDS = ("study regions",)


def draw(run: Run) -> str:
    """Render the page of a study; what has no table yet says so."""
    view = View(run)
    found = view.table("findings").sort("order")["text"].to_list() if view.has("findings") else []
    lead = [
        "Fine-tunes of one base: do those of one data set lie together, is the ground between them good and the ground "
        "outside bad, and is the middle a better place to start from?"
    ]
    sections = [part("found", "What was found, beside the paper", bullets=spaced(found))] if found else []
    parts: list[tuple[tuple[str, ...], Callable[[View], list[Section]]]] = [
        (("clusters", "layout"), _clusters),
        (("kinship_kinds",), _controls),
        (("beside_paper", "separation", "places"), _separation),
        (("interpolation_curves", "interpolation_kinds", "interpolation_pairs"), _interpolation),
        (("edges", "directions"), _edges),
        (("centre_sets", "centre_count"), _centre),
        (("starts",), _starts),
        (("compute",), _compute),
    ]
    for tables, make in parts:
        if view.has(*tables):
            sections += make(view)
    return page(
        title="Regions in weight space", kicker="heredity study regions · after arXiv 2302.04863",
        lead=lead, sections=[*sections, *notes_section(view), settings_section(view)],
    )  # fmt: skip


def _clusters(view: View) -> list[Section]:
    layout = view.table("layout")
    colours = member_colours(list(dict.fromkeys(layout["data"].to_list())))
    drawn = Figure(
        name="layout", plot=figures.scatter(layout, "x", "y", "data", colours, text="model"),
        height=440, numbers=layout,
        caption="Members by the directions of their task vectors (PCoA of √(2 − 2·cosine)); one mark for each set."
        + _trust(view),
    )  # fmt: skip
    text = [
        "Every member's weights without its head, minus the base's, flattened; cosines; spectral clustering with as "
        "many groups as there are values, as the paper does. Chance shuffles labels, families between whole sets."
    ]
    return [
        part(
            "clusters",
            "Do models of one set lie together?",
            text=text,
            drawn=[drawn],
            table=view.table("clusters"),
        )
    ]


def _trust(view: View) -> str:
    """Say how far to trust the picture."""
    rows = (
        view.table("layout_trust").filter(pl.col("picture") == "directions")
        if view.has("layout_trust")
        else None
    )
    if rows is None or rows.is_empty():
        return ""
    row = rows.row(0, named=True)
    known = row["trustworthiness"]
    near = "" if known is None else f", trustworthiness {known:.2f} ({row['neighbours']} neighbours)"
    share = 100 * (row["explained_x"] + row["explained_y"])
    return f" Two axes hold {share:.0f}\u00a0% of the squared distances; stress {row['stress']:.2f}{near}."


def _controls(view: View) -> list[Section]:
    table = view.table("kinship_kinds")
    rows = [
        {
            "name": f"{row['kind']} ({row['pairs_of_sets']})",
            "value": row["cosine"],
            "low": row["low"],
            "high": row["high"],
        }
        for row in table.to_dicts()
    ]
    drawn = Figure(
        name="kinds", plot=figures.intervals(rows, x_title="mean cosine of task vectors"), numbers=table,
        caption="What two models share, and how alike they moved; in brackets, pairs of sets that are averaged over. "
        "Bars: the middle 95 % when sets are resampled, those with the same texts as one.",
        height=260,
    )  # fmt: skip
    text = [
        "Is it the texts or the labels? Some sets label the same texts in two ways: the second row compares those."
    ]
    return [part("controls", "The same texts, other labels", text=text, drawn=[drawn], table=table)]


def _separation(view: View) -> list[Section]:
    text = [
        "Means over the levels of each kind: one set, one family, all models. The paper's are of MNLI, of NLI and of "
        "all, with RoBERTa-base; low and high are the middle 95 % of the mean when sets or families are resampled, or "
        "the own interval of a single level."
    ]
    beside = part("beside", "Beside the paper", text=text, table=view.table("beside_paper"))
    return [beside, *separation_sections(view)]


def _interpolation(view: View) -> list[Section]:
    means = view.table("interpolation_curves")
    drawn = Figure(
        name="interpolation", numbers=means,
        plot=figures.curves(
            means, "alpha", "loss", "kind", x_title="α", y_title="loss − mean of the two ends, nats"
        ),
        caption="Between two models of one set, of two sets of one family, of two families: mean over pairs, on both "
        "models' own sets; bars are the middle 95 % over resampled pairs.",
    )  # fmt: skip
    terms = [
        ("Middle", "the loss halfway minus the mean of the ends' losses; below 0 is better."),
        ("Barrier", "the most that the loss is above the line between the ends' losses; 0 where it never is."),
        ("Gain", "the better end's loss minus the lowest in between: a best of several, so read it beside the middle."),
    ]  # fmt: skip
    return [
        part("interpolation", "In between", drawn=[drawn], table=view.table("interpolation_kinds"), terms=terms),
        part("pairs", "Pair by pair", table=view.table("interpolation_pairs")),
    ]  # fmt: skip


def _edges(view: View) -> list[Section]:
    return [edge_section(view), direction_section(view)]


def _centre(view: View) -> list[Section]:
    sets, count = view.table("centre_sets"), view.table("centre_count")
    drawn = []
    for number, (regime, here) in enumerate(sets.group_by("regime", maintain_order=True)):
        rows = [
            {
                "name": row["data"], "value": 100 * row["gain"], "low": 100 * row["gain_low"],
                "high": 100 * row["gain_high"],
            }
            for row in here.to_dicts()
        ]  # fmt: skip
        drawn.append(Figure(
            name=f"centre-{number}", plot=figures.intervals(rows, x_title="gain in accuracy from the centre, points"),
            caption=f"{regime[0]}: accuracy from the centre of the other sets' models minus that from the base; 95 % "
            "over rows and seeds.", numbers=here, height=80 + 30 * len(rows),
        ))  # fmt: skip
    terms = [
        ("Centre", "the mean of all members but those of the set itself, and of a set with the same texts."),
        (
            "Nearness",
            "distance from the centre to the mean of the set's own models, over the base's; below 1 is nearer.",
        ),
        (
            "The paper",
            "BitFit on full data: 65.5 against 61.5 on average over 12 sets, better on 9 to 11 of them.",
        ),
    ]
    return [
        part("centre", "Starting from the centre", drawn=drawn, table=count, terms=terms),
        part("centre-sets", "Set by set", table=sets),
    ]


def _starts(view: View) -> list[Section]:
    text = [
        "The start that recall, proxy and halving found, against brute force, which tunes every candidate in full and "
        "takes the lowest validation loss; the oracle is the best on the test rows, which nobody could know."
    ]
    return [part("starts", "The search for a start", text=text, table=view.table("starts"))]


def _compute(view: View) -> list[Section]:
    text = [
        "Seconds of the process that finished each stage; a stage that was resumed counts its last part only."
    ]
    return [part("compute", "What each result cost", text=text, table=view.table("compute"))]
