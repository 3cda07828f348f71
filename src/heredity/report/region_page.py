"""The pages of `path`, `plane`, `region` and `start`: what the ground between and around models is like."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from heredity.report import region_figures as figures
from heredity.report.html import Figure, Section, page
from heredity.report.view import View
from heredity.run import Run

COMMANDS = ("path", "plane", "region", "start")
_TITLES = {
    "path": "From one model to the other", "plane": "The plane of three models", "region": "Inside and outside",
    "start": "Where to start",
}  # fmt: skip
_LEAD = 3  # more sentences are a list
_LOSS = ("Loss", "mean negative log-likelihood on held-out rows, nats; lower is better.")
_GENERALISED = (
    "Generalised loss",
    "the encoder stays frozen, a new linear head is fitted to convergence on training rows, and its loss on test rows "
    "is what counts.",
)
_P_B = (
    "P_B",
    "how often a model of the first group has a lower loss than one of the second, over all pairs, ties counted half: "
    "1 − U/(nm) of Mann and Whitney. Strict counts ties as losses, loose as wins.",
)


def draw(run: Run) -> str:
    """Render the page of a run; what has no table yet says so."""
    view = View(run)
    command = str(view.record["command"])
    found = spaced(view.table("findings").sort("order")["text"].to_list()) if view.has("findings") else []
    several = [part("found", "What was found", bullets=found)] if len(found) > _LEAD else []
    sections = [*several, *_drawn(view), *notes_section(view), settings_section(view)]
    return page(
        title=_TITLES[command], kicker=f"heredity {command}", lead=[] if several else found,
        sections=sections,
    )  # fmt: skip


def part(
    anchor: str, title: str, *, text: Sequence[str] = (), bullets: Sequence[str] = (), drawn: Sequence[Figure] = (),
    table: pl.DataFrame | None = None, terms: Sequence[tuple[str, str]] = (),
) -> Section:  # fmt: skip
    """Make a section of paragraphs, a list, figures, a table and explained words."""
    values = {
        "text": list(text), "bullets": list(bullets), "figures": list(drawn), "table": table, "terms": list(terms),
    }  # fmt: skip
    return Section(anchor, title, "region_part.j2", values)


def spaced(texts: Sequence[str]) -> list[str]:
    """Keep a number and its per cent sign on one line."""
    return [text.replace(" %", "\u00a0%") for text in texts]


def path_section(view: View) -> Section:
    """Draw the losses along a path, and its barriers."""
    table, barriers = view.table("path"), view.table("barriers")
    drawn: list[Figure] = []
    beyond = float(table["alpha"].max()) > 1  # type: ignore[arg-type]
    for moved in table["moved"].unique(maintain_order=True).to_list():
        rows = table.filter(pl.col("moved") == moved)
        what = (
            "the whole model moves"
            if moved == "all"
            else f"only {moved} moves, all else stays at the first model"
        )
        plot = figures.edge_curves(rows, "data") if beyond else figures.curves(
            rows, "alpha", "loss", "data", x_title="α (0 is the first model, 1 the second)", y_title="loss, nats"
        )  # fmt: skip
        drawn.append(Figure(
            name=f"path-{len(drawn)}", plot=plot, caption=f"Loss along the straight line; {what}.",
            numbers=rows.select("alpha", "data", "loss", "accuracy", "note"),
        ))  # fmt: skip
    terms = [
        _LOSS,
        (
            "Barrier",
            "the most that the loss is above the straight line between the ends' losses, for α in [0, 1].",
        ),
        (
            "Gain",
            "the better end's loss minus the lowest loss strictly in between; negative where an end is best.",
        ),
        ("Intervals", "the middle 95 % over resamples of the held-out rows, the same rows for every place."),
    ]
    return part("path", "Losses on the way", drawn=drawn, table=barriers, terms=terms)


def plane_sections(view: View) -> list[Section]:
    """Draw the loss over a plane for every set of data."""
    table, members = view.table("plane"), view.table("plane_members")
    drawn = [
        Figure(
            name=f"plane-{number}", plot=figures.surface(table, members, data), height=480,
            caption=f"Loss on {data} over the plane of the three starred models; others are drawn at the point of "
            "the plane nearest to them.",
            numbers=table.filter(pl.col("data") == data).select("x", "y", "loss", "accuracy", "note"),
        )
        for number, data in enumerate(table["data"].unique(maintain_order=True).to_list())
    ]  # fmt: skip
    text = [
        "Both axes are distances in weight space, in the same units; x runs from the first model to the second."
    ]
    return [
        part("plane", "The surface", text=text, drawn=drawn, terms=[_LOSS]),
        part("members", "The models on it", table=members),
    ]


def separation_sections(view: View) -> list[Section]:
    """Draw the losses of members, mixtures and outsiders, and how often one beats the other."""
    places, found = view.table("places"), view.table("separation")
    means = places.group_by("level", "role", "place", maintain_order=True).agg(pl.col("loss").mean())
    drawn = Figure(
        name="roles", plot=figures.roles(means), numbers=means, height=420,
        caption="Mean loss over each level's data: members (In), mixtures of them (In′), and what is outside (Ex).",
    )  # fmt: skip
    terms = [
        _LOSS, _GENERALISED, _P_B,
        (
            "Interval",
            "low to high, the middle 95 % of draws in which members are resampled, those of one data set together; for "
            "In′, mixtures of each of so many samples (redraws) are measured anew, so few redraws make it rough.",
        ),
        ("p_value", "how often P_B is as high when other data sets (or members) are called inside; null where Ex are "
         "random places."),
        ("In′", "as many models drawn at random in the convex hull of the members (Dirichlet with all weights 1)."),
        ("Ex", "at the general level, the base and a random step, shaped like an initialisation in every tensor and as "
         "long as the members' mean task vector; at the others, the members outside of the group."),
    ]  # fmt: skip
    return [part("separation", "Inside against outside", drawn=[drawn], table=found, terms=terms)]


def edge_section(view: View) -> Section:
    """Draw what happens past the ends of pairs."""
    table = view.table("edges").with_columns(pair=pl.col("a") + " → " + pl.col("b"))
    drawn = []
    for kind in table["kind"].unique(maintain_order=True).to_list():
        rows = table.filter(pl.col("kind") == kind)
        means = rows.group_by("pair", "alpha", maintain_order=True).agg(pl.col("loss").mean())
        drawn.append(Figure(
            name=f"edges-{kind}", plot=figures.edge_curves(means, "pair"),
            caption=f"Past both ends of pairs ({kind} label): mean loss on the pair's own data; 0 and 1 are they.",
            numbers=rows.select("a", "b", "alpha", "data", "loss", "note"),
        ))  # fmt: skip
    return part("edges", "Past the ends", drawn=drawn, terms=[_LOSS])


def direction_section(view: View) -> Section:
    """Draw the loss from the centroid outwards."""
    table = view.table("directions")
    means = table.group_by("direction", "radius", maintain_order=True).agg(pl.col("loss").mean())
    plot = figures.curves(
        means, "radius", "loss", "direction", x_title="distance from the centroid (the members' mean is 1)",
        y_title="loss, nats", marks=(1.0,),
    )  # fmt: skip
    drawn = Figure(
        name="directions", plot=plot, caption="From the centroid outwards: random directions, and towards the base.",
        numbers=table.select("direction", "radius", "data", "loss", "note"),
    )  # fmt: skip
    return part("directions", "From the centre outwards", drawn=[drawn], terms=[_LOSS])


def start_sections(view: View) -> list[Section]:
    """Draw the candidates of a start: their proxy, their real fine-tunes, and what was saved."""
    evidence = view.table("evidence")
    rows = [
        {"name": row["candidate"], "value": row["gap"], "low": row["gap_low"], "high": row["gap_high"],
         "colour": "var(--persists)" if row["chosen"] else "var(--member-1)"}
        for row in evidence.filter(pl.col("gap").is_not_null()).iter_rows(named=True)
    ]  # fmt: skip
    drawn = []
    if rows:
        drawn.append(Figure(
            name="gaps", plot=figures.intervals(rows, x_title="accuracy, difference from the chosen start"),
            caption="Candidates that were fine-tuned as far as the chosen one, against it: same rows, same seeds.",
            numbers=evidence, height=80 + 34 * len(rows),
        ))  # fmt: skip
    terms = [
        _GENERALISED,
        ("Proxy", "the generalised loss on a sample of the task's training rows, before any fine-tune."),
        ("Rung", "a round of real fine-tunes at a share of the budget; the better half goes on to the next."),
        (
            "Cost",
            "rows passed forwards, a training row counting as three; brute force tunes every candidate in full.",
        ),
    ]
    sections = [part("evidence", "The evidence", drawn=drawn, table=evidence, terms=terms)]
    if view.has("rungs"):
        sections.append(part("rungs", "Round by round", table=view.table("rungs")))
    if view.has("cost"):
        sections.append(part("cost", "What it cost", table=view.table("cost")))
    return sections


def settings_section(view: View) -> Section:
    """Give the settings and the seed of the run."""
    config: dict[str, Any] = view.record["config"]
    rows = [*_flat(config), ("seed", str(view.record["seed"]))]
    return part("settings", "Settings", table=pl.DataFrame(rows, schema=["setting", "value"], orient="row"))


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Give each setting that is set by its path, `tuning.epochs`; a list of tables is one line for each of them."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            rows += _flat(value, f"{path}.")
        elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            rows += [
                (f"{path} {n}", ", ".join(" ".join(pair) for pair in _flat(one)))
                for n, one in enumerate(value, 1)
            ]
        elif value not in (None, [], "", False):
            rows.append((path, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows


def _drawn(view: View) -> list[Section]:
    sections: list[Section] = []
    if view.has("path", "barriers"):
        sections.append(path_section(view))
    if view.has("plane", "plane_members"):
        sections += plane_sections(view)
    if view.has("separation", "places"):
        sections += separation_sections(view)
    if view.has("edges"):
        sections.append(edge_section(view))
    if view.has("directions"):
        sections.append(direction_section(view))
    if view.has("evidence"):
        sections += start_sections(view)
    return sections or [Section("ground", "The ground", "missing.j2", {"waits_for": "the measured places"})]


def notes_section(view: View) -> list[Section]:
    """Say what was done to the data."""
    if not view.has("warnings"):
        return []
    return [part("data", "About the data", bullets=spaced(view.table("warnings")["text"].to_list()))]
