"""`heredity demo`: the feature study from nothing to one page."""

from pathlib import Path

import click

from heredity.cli import _options


@click.command()
@click.option(
    "--preset", type=click.Choice(["smoke", "small", "wide", "paper"]), default="small", show_default=True,
    help="smoke: a minute. small: a quarter of an hour. wide: two hours. paper: its own data (a GPU and a hub).",
)  # fmt: skip
@click.option(
    "--config", type=click.Path(path_type=Path), help="A study file of your own instead of a preset."
)
@click.option("--print-config", is_flag=True, help="Print the settings as TOML and stop.")
@click.option("--dry-run", is_flag=True, help="Print sizes, disk and estimated work, and stop.")
@_options.init
@_options.crosscoder
@_options.out
@_options.seed
@_options.device
@_options.settings
@_options.resume
@_options.overwrite
@_options.as_json
@_options.quiet
def command(
    preset: str, config: Path | None, print_config: bool, dry_run: bool, init: str | None, crosscoder: bool,
    out: Path | None, seed: int, device: str, settings: tuple[str, ...], resume: bool, overwrite: bool,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Build a family on real text, merge it, train SAEs, track features, and write one HTML page.

    Trains a one-layer base model on plays and Python, fine-tunes it on Lua and on Bible prose, merges the two by
    SLERP, trains sparse autoencoders on every member, and follows features along every edge. Interrupted, it goes
    on where it stopped when called again with the same settings.
    """
    from heredity.cli import _tracking
    from heredity.errors import ConfigError
    from heredity.models.load import device_of
    from heredity.run import Run
    from heredity.studies.features import config as settings_of
    from heredity.studies.features.sizes import of_study
    from heredity.studies.features.study import study
    from heredity.tomlfile import to_toml

    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", "choose one")
    chosen = settings_of.read(config) if config else settings_of.preset(preset)
    if crosscoder and chosen.crosscoder is None:
        settings = ("crosscoder={}", *settings)
    if init:
        settings = (f"sae.init={init}", *settings)
    chosen = settings_of.with_values(chosen, settings)
    _tracking.check_asked(chosen.sae, chosen.crosscoder, init=init, crosscoder=crosscoder)
    if print_config:
        click.echo(to_toml(settings_of.plain(chosen)), nl=False)
        return
    folder = out or Path("runs") / f"demo-{config.stem if config else preset}"
    sizes = of_study(chosen)
    if dry_run:
        facts, lines = _tracking.shown(sizes, chosen.sae, chosen.name)
        _options.emit(
            {"run": str(folder), **facts},
            as_json=as_json,
            lines=[*lines, "           beside the training of the language models"],
        )
        return
    device_of(device)
    sizes.check(folder)
    # The demo goes on with its own folder by itself; Run.open refuses any other folder that is not empty.
    run = Run.open(
        folder,
        command="demo",
        config=settings_of.plain(chosen),
        seed=seed,
        resume=not overwrite,
        overwrite=overwrite,
    )
    with run.recorded():
        made = study(
            run, chosen, root=config.parent if config else Path.cwd(), device=device,
            progress=_options.progress(quiet), say=lambda text: _options.say(text, quiet=quiet),
        )  # fmt: skip
    page = folder / "report.html"
    findings = run.table("findings")["text"].to_list()
    if not made:
        _options.say("Everything was done already; --overwrite starts anew.", quiet=quiet)
    _options.emit(
        {"run": str(folder), "report": str(page), "findings": findings},
        as_json=as_json,
        lines=[*findings, "", f"report: {page}"],
    )
