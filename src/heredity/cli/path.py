"""`heredity path`: losses on the straight line between two models, and beyond its ends."""

from pathlib import Path

import click

from heredity.cli import _ground, _options


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--family", "file", type=click.Path(path_type=Path), help="A and B are members of this family.")
@_options.out
@click.option(
    "--steps", type=click.IntRange(2), default=11, show_default=True, help="Places from end to end."
)
@click.option(
    "--extrapolate", type=click.FloatRange(1), default=1.0, show_default=True,
    help="Go past both ends, in log steps, to α = this and 1 − this.",
)  # fmt: skip
@click.option(
    "--edge-steps", type=click.IntRange(1), default=6, show_default=True, help="Places past each end."
)
@click.option(
    "--move", multiple=True, metavar="PART",
    help="Also move one part alone: attention, mlp, norm, embedding, layers>=N, layers<N, layer=N; repeatable.",
)  # fmt: skip
@_ground.measured_on
@_options.seed
@_options.device
@_options.jobs
@_options.resume
@_options.overwrite
@_options.as_json
@_options.quiet
def command(
    a: str, b: str, file: Path | None, out: Path | None, steps: int, extrapolate: float, edge_steps: int,
    move: tuple[str, ...], measured: _ground.Measured, seed: int, device: str, jobs: int, resume: bool,
    overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Walk from model A to model B: loss on every set of data, its barrier, and what each part of the model does.

    A and B are folders or Hub ids, or members of --family. Every place is poured into one live model; no file is
    written. OUT gets tables (path, barriers) and report.html, and goes on where it stopped with --resume.
    """
    from heredity.cli._family import of_two_or_more
    from heredity.regions.path import PathSettings, walk_path
    from heredity.regions.place import selection
    from heredity.run import Run

    read = measured.read(seed=seed)  # what cannot be measured is refused before a folder is made
    for part in move:
        selection(part)
    settings = PathSettings(steps=steps, extrapolate=extrapolate, edge_steps=edge_steps, move=move)
    family, names = of_two_or_more([a, b], file)
    folder = out or Path("runs") / f"path-{names[0]}-{names[1]}"
    config = {
        "a": a, "b": b, "family": None if file is None else str(file), "steps": steps, "extrapolate": extrapolate,
        "edge_steps": edge_steps, "move": list(move), **measured.record,
    }  # fmt: skip
    run = Run.open(folder, command="path", config=config, seed=seed, resume=resume, overwrite=overwrite)
    findings = _ground.survey(
        run, family, measured, read,
        lambda ground, metrics: walk_path(
            run, ground, metrics, names[0], names[1], settings, say=lambda line: _options.say(line, quiet=quiet)
        ),
        device=device, jobs=jobs, members=names,
    )  # fmt: skip
    _ground.tell(run, findings, as_json=as_json, tables=["barriers"])
