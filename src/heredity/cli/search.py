"""`heredity search`: find the t or the weights of a merge on validation text."""

from contextlib import nullcontext
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
@_options.out
@_options.device
@_options.settings
@_options.pickles
@_options.resume
@_options.overwrite
@_options.as_json
@_options.quiet
def command(
    recipe: Path, data: Path, by: str, steps: int, tolerance: float, patience: int | None, top: int,
    clusters: int | None, record: Path | None, out: Path | None, device: str, settings: tuple[str, ...],
    resume: bool, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Find the t or the weights with which RECIPE's result has the lowest loss on a token stream.

    OUT gets the points as a table and a picture (report.html), and best.toml, the recipe to merge.
    """
    import numpy as np

    from heredity.cli._overrides import overrides
    from heredity.corpora.tokens import TokenStream
    from heredity.geometry.clusters import cluster
    from heredity.merging._open import configured
    from heredity.merging.output import input_states, job_of
    from heredity.merging.recipe import Recipe
    from heredity.merging.resolve import resolve
    from heredity.models.load import load
    from heredity.regions import search
    from heredity.regions.poured import at, kinship, loss_of_merges, searched
    from heredity.regions.trace import Kept, write_best, write_tables
    from heredity.report import write_report
    from heredity.run import Run

    merge = resolve(Recipe.load(recipe, overrides(settings)))
    what = searched(merge)
    if (what == "t") != (by in ("grid", "golden")):
        fit = "grid or golden" if what == "t" else "soup, kin or clusters"
        raise ConfigError(f"--by {by} does not search the {what} of {recipe}", f"--by {fit} does")
    stream = TokenStream.open(data)
    job = job_of(merge, input_states(merge), data=stream.digest)
    run = None
    if out is not None:
        config = {
            "recipe": str(recipe), "data": str(data), "by": by, "steps": steps, "tolerance": tolerance,
            "patience": patience, "top": top, "clusters": clusters, "set": list(settings),
        }  # fmt: skip
        run = Run.open(out, command="search", config=config, seed=0, resume=resume, overwrite=overwrite)
        record = record or run.folder("trace") / "trace.json"
    kept = Kept(record, job)
    with nullcontext() if run is None else run.recorded():
        loss = loss_of_merges(merge, load(configured(merge.target.donor).path, device=device), stream)

        def evaluate(weights: search.Weights) -> float:
            value = loss(weights)
            _options.say(f"{', '.join(f'{w:.4g}' for w in weights)}: loss {value:.5f}", quiet=quiet)
            kept.add(weights, value)
            return value

        trace = search.Trace(evaluate, kept.points)
        models = [checkpoint.name for checkpoint in merge.plan.groups[0].inputs]
        members = models[merge.plan.groups[0].base :]
        if by == "grid":
            best = search.grid(trace, np.linspace(0, 1, steps).tolist())
        elif by == "golden":
            best = search.golden_section(trace, tolerance=tolerance, patience=patience)
        elif by == "soup":
            best = search.greedy_soup(trace, len(members), patience=patience)
        elif by == "kin":
            best = search.kinship_greedy(trace, kinship(merge), top=top, patience=patience)
        else:
            found = cluster(kinship(merge), clusters)
            _options.say(f"{found.k} clusters: {found.labels.tolist()}", quiet=quiet)
            best = search.clustered(trace, found.labels.tolist(), patience=patience)
        if run is not None:
            write_tables(run, trace.steps, models if what == "t" else members, what)
            write_best(run.path / "best.toml", merge, at(merge, best.weights))
            write_report(run)
    rows = [step._asdict() for step in trace.steps]
    lines = [
        f"best: {', '.join(f'{w:.4g}' for w in best.weights)} with loss {best.loss:.5f} of {len(rows)} points"
    ]
    lines += (
        [] if run is None else [f"report: {run.path / 'report.html'}", f"recipe: {run.path / 'best.toml'}"]
    )
    _options.emit({"best": best._asdict(), "steps": rows}, as_json=as_json, lines=lines)
