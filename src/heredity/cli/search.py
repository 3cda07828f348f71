"""`heredity search`: find the t or the weights of a merge on validation text."""

import json
from pathlib import Path

import click

from heredity.cli import _options
from heredity.errors import ConfigError


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Token stream of validation text."
)
@click.option(
    "--by", type=click.Choice(["grid", "golden", "soup", "kin", "clusters"]), default="golden",
    show_default=True, help="grid and golden section search t; the others search which models to average.",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(2), default=11, show_default=True, help="Points of the grid.")
@click.option("--tolerance", type=float, default=0.02, show_default=True, help="Golden section stops here.")
@click.option("--patience", type=click.IntRange(1), help="Stop after so many points without a lower loss.")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="kin: best models to try.")
@click.option("--clusters", type=click.IntRange(1), help="clusters: how many; default: by the eigengap.")
@click.option(
    "--trace", "record", type=click.Path(path_type=Path), help="Keep the points here, and go on with it."
)
@_options.device
@_options.settings
@_options.pickles
@_options.as_json
@_options.quiet
def command(
    recipe: Path, data: Path, by: str, steps: int, tolerance: float, patience: int | None, top: int,
    clusters: int | None, record: Path | None, device: str, settings: tuple[str, ...], as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Find the t or the weights with which RECIPE's result has the lowest loss on a token stream."""
    import numpy as np

    from heredity.atomic import write_text
    from heredity.cli._overrides import overrides
    from heredity.corpora.tokens import TokenStream
    from heredity.geometry.clusters import cluster
    from heredity.merging._open import configured
    from heredity.merging.output import input_states, job_of
    from heredity.merging.recipe import Recipe
    from heredity.merging.resolve import resolve
    from heredity.models.load import load
    from heredity.regions import search
    from heredity.regions.poured import kinship, loss_of_merges, searched

    merge = resolve(Recipe.load(recipe, overrides(settings)))
    what = searched(merge)
    if (what == "t") != (by in ("grid", "golden")):
        fit = "grid or golden" if what == "t" else "soup, kin or clusters"
        raise ConfigError(f"--by {by} does not search the {what} of {recipe}", f"--by {fit} does")
    stream = TokenStream.open(data)
    job = job_of(merge, input_states(merge), data=stream.digest)
    known = {} if record is None else _known(record, job)
    loss = loss_of_merges(merge, load(configured(merge.target.donor).path, device=device), stream)

    def evaluate(weights: search.Weights) -> float:
        value = loss(weights)
        _options.say(f"{', '.join(f'{w:.4g}' for w in weights)}: loss {value:.5f}", quiet=quiet)
        known[weights] = value
        if record is not None:
            kept = [{"weights": list(w), "loss": v} for w, v in known.items()]
            write_text(record, json.dumps({"schema": 1, "job": job, "steps": kept}, indent=1) + "\n")
        return value

    trace = search.Trace(evaluate, known)
    count = len(merge.plan.groups[0].inputs) - merge.plan.groups[0].base
    if by == "grid":
        best = search.grid(trace, np.linspace(0, 1, steps).tolist())
    elif by == "golden":
        best = search.golden_section(trace, tolerance=tolerance, patience=patience)
    elif by == "soup":
        best = search.greedy_soup(trace, count, patience=patience)
    elif by == "kin":
        best = search.kinship_greedy(trace, kinship(merge), top=top, patience=patience)
    else:
        found = cluster(kinship(merge), clusters)
        _options.say(f"{found.k} clusters: {found.labels.tolist()}", quiet=quiet)
        best = search.clustered(trace, found.labels.tolist(), patience=patience)
    rows = [step._asdict() for step in trace.steps]
    lines = [
        f"best: {', '.join(f'{w:.4g}' for w in best.weights)} with loss {best.loss:.5f} of {len(rows)} points"
    ]
    _options.emit({"best": best._asdict(), "steps": rows}, as_json=as_json, lines=lines)


def _known(record: Path, job: str) -> dict[tuple[float, ...], float]:
    """Return the points of an earlier run of the same search."""
    if not record.exists():
        return {}
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
        steps = {tuple(step["weights"]): float(step["loss"]) for step in kept["steps"]}
        same = kept["job"] == job
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{record}: is no trace of a search ({error!r})", "name another file") from None
    if not same:
        raise ConfigError(
            f"{record}: is the trace of another recipe, other models or other text", "name another file"
        )
    return steps
