"""`heredity study regions`, added to the group of studies."""

import os
from pathlib import Path

import click

from heredity.cli import _options


@click.command("regions")
@click.option(
    "--preset", type=click.Choice(["small", "embedded"]), default="small", show_default=True,
    help="small: a sentence encoder, twelve labelled sets from --data. embedded: language models, nothing needed.",
)  # fmt: skip
@click.option(
    "--config", type=click.Path(path_type=Path), help="A study file of your own instead of a preset."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of the labelled sets, NAME.train.jsonl and NAME.test.jsonl.",
)
@click.option("--print-config", is_flag=True, help="Print the settings as TOML and stop.")
@_options.out
@_options.seed
@_options.device
@_options.settings
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1),
    help="Processes that train and measure at once.  [default: all cores]",
)
@_options.resume
@_options.overwrite
@_options.as_json
@_options.quiet
def command(
    preset: str, config: Path | None, data: Path | None, print_config: bool, out: Path | None, seed: int, device: str,
    settings: tuple[str, ...], jobs: int | None, resume: bool, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Repeat the study of regions in weight space in small: a family of fine-tunes, and the ground between them.

    Clusters of task vectors, interpolation, inside against outside, edges, the centre as a start, the search for a
    start; every number with an interval and beside the paper's. Interrupted, it goes on where it stopped when it is
    called again with the same settings.
    """
    from heredity.errors import ConfigError
    from heredity.run import Run
    from heredity.studies.regions import config as settings_of
    from heredity.studies.regions.study import study
    from heredity.tomlfile import to_toml

    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", "choose one")
    values = settings_of.read(config) if config else settings_of.preset(preset)
    chosen = settings_of.settings(values, settings)
    if print_config:
        click.echo(to_toml(settings_of.plain(chosen)), nl=False)
        return
    needs = chosen.encoder is not None and any(labelled.ref is None for labelled in chosen.encoder.sets)
    if needs and data is None:
        raise ConfigError(
            "the labelled sets are not given",
            "--data FOLDER names their folder; --preset embedded needs none",
        )
    folder = out or Path("runs") / f"regions-{config.stem if config else preset}"
    run = Run.open(
        folder, command="study regions", config=settings_of.plain(chosen), seed=seed, resume=not overwrite,
        overwrite=overwrite,
    )  # fmt: skip
    with run.recorded():
        study(
            run, chosen, root=data or Path.cwd(), device=device, jobs=jobs or os.cpu_count() or 1,
            say=lambda text: _options.say(text, quiet=quiet),
        )  # fmt: skip
    findings = run.table("findings").sort("order")["text"].to_list()
    page = folder / "report.html"
    _options.emit(
        {"run": str(folder), "report": str(page), "findings": findings},
        as_json=as_json, lines=[*findings, "", f"report: {page}"],
    )  # fmt: skip
