"""`heredity study`: published studies and controls, each a run folder of its own."""

from pathlib import Path

import click

from heredity.cli import _options, _regions


@click.group()
def command() -> None:
    """Run a study: it trains its own models and leaves tables and a family file."""


@command.command("domains")
@_options.out
@_options.seed
@_options.device
@_options.resume
@_options.overwrite
@_options.as_json
@_options.quiet
def domains(
    out: Path | None, seed: int, device: str, resume: bool, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Fine-tune two bases on eight kinds of text with three seeds each: a family to map, with its control.

    Takes about an hour on two cores. Map the result with `heredity map OUT/models/both.toml -o RUN --by domain`.
    """
    from heredity.run import Run
    from heredity.studies import domains as work

    config = work.preset()
    folder = out or Path("runs") / "domains"
    run = Run.open(
        folder, command="domains", config=work.plain(config), seed=seed, resume=resume, overwrite=overwrite
    )
    with run.recorded():
        files = work.study(
            run,
            config,
            root=Path.cwd(),
            device=device,
            progress=_options.progress(quiet),
            say=lambda text: _options.say(text, quiet=quiet),
        )
    names = [str(file) for file in files]
    _options.emit({"families": names}, as_json=as_json, lines=[f"family: {name}" for name in names])


command.add_command(_regions.command)
