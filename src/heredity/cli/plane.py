"""`heredity plane`: losses over the plane of three models."""

from pathlib import Path

import click

from heredity.cli import _ground, _options


@click.command()
@click.argument("a")
@click.argument("b")
@click.argument("c")
@click.option(
    "--family", "file", type=click.Path(path_type=Path), help="A, B and C are members of this family."
)
@_options.out
@click.option(
    "--steps", type=click.IntRange(2), default=9, show_default=True, help="Places along the shorter side."
)
@click.option(
    "--margin", type=click.FloatRange(0), default=0.5, show_default=True,
    help="How far past the three models, in units of their distances.",
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
    a: str, b: str, c: str, file: Path | None, out: Path | None, steps: int, margin: float,
    measured: _ground.Measured, seed: int, device: str, jobs: int, resume: bool, overwrite: bool, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Measure the plane through models A, B and C, with all members of the family drawn where they lie on it.

    A is the origin, B lies on the x axis. OUT gets tables (plane, plane_members) and report.html.
    """
    from heredity.cli._family import of_two_or_more
    from heredity.regions.surface import survey_plane
    from heredity.run import Run

    read = measured.read(seed=seed)  # what cannot be measured is refused before a folder is made
    family, names = of_two_or_more([a, b, c], file)
    folder = out or Path("runs") / f"plane-{'-'.join(names)}"
    config = {
        "corners": list(names), "family": None if file is None else str(file), "steps": steps, "margin": margin,
        **measured.record,
    }  # fmt: skip
    run = Run.open(folder, command="plane", config=config, seed=seed, resume=resume, overwrite=overwrite)
    findings = _ground.survey(
        run, family, measured, read,
        lambda ground, metrics: survey_plane(
            run, ground, metrics, (names[0], names[1], names[2]), steps=steps, margin=margin,
            say=lambda line: _options.say(line, quiet=quiet),
        ),
        device=device, jobs=jobs,
    )  # fmt: skip
    _ground.tell(run, findings, as_json=as_json)
