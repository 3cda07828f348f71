"""`heredity track`: features through any family."""

from pathlib import Path
from typing import Any

import click

from heredity.cli import _options


@click.command()
@click.argument("family", type=click.Path(path_type=Path))
@click.option(
    "--data", multiple=True, metavar="DATA",
    help="Text to compare on: a file, a folder, DOMAIN=SOURCE, a .toml of corpora (repeatable), or the folder of "
    "one ready token stream.",
)  # fmt: skip
@click.option(
    "--site",
    metavar="MODULE:SIDE",
    help="Where features are read.  [default: the middle layer's MLP, inside]",
)
@click.option("--config", type=click.Path(path_type=Path), help="A settings file (TOML) over the defaults.")
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
    family: Path, data: tuple[str, ...], site: str | None, config: Path | None, print_config: bool, dry_run: bool,
    init: str | None, crosscoder: bool, out: Path | None, seed: int, device: str, settings: tuple[str, ...],
    resume: bool, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Track the features of FAMILY (a family.toml, or a folder with one) along every edge, on one text.

    Trains sparse autoencoders on every member's activations at one site, from at least two seeds, and compares
    members on held-out text: what persists, disappears, emerges, against a floor and a ceiling. Writes tables
    (Parquet) and report.html with a page for every feature. Interrupted, it goes on with --resume.
    """
    import msgspec

    from heredity.cli import _tracking
    from heredity.errors import ConfigError
    from heredity.models.load import device_of
    from heredity.run import Run
    from heredity.studies.tracking import config as settings_of
    from heredity.studies.tracking.sizes import estimate
    from heredity.studies.tracking.study import track
    from heredity.tomlfile import to_toml

    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", "choose one")
    loaded, chosen, root = _tracking.plan(
        family, data, site, config, settings, init=init, crosscoder=crosscoder
    )
    if print_config:
        click.echo(to_toml(settings_of.plain_values(chosen)), nl=False)
        return
    folder = out or Path("runs") / f"track-{loaded.name}"
    sizes = estimate(chosen, loaded, _tracking.domains(chosen, root))
    if dry_run:
        facts, lines = _tracking.shown(sizes, chosen.sae, loaded.name)
        _options.emit({"run": str(folder), **facts}, as_json=as_json, lines=lines)
        return
    device_of(device)
    sizes.check(folder)
    run = Run.open(
        folder, command="track", config=settings_of.plain_values(chosen), seed=seed, resume=resume, overwrite=overwrite
    )  # fmt: skip
    with run.recorded():
        made = track(
            run, chosen, loaded, root=root, device=device, progress=_options.progress(quiet),
            say=lambda text: _options.say(text, quiet=quiet),
        )  # fmt: skip
    page = folder / "report.html"
    findings = run.table("findings")["text"].to_list()
    if not made:
        _options.say("Everything was done already; --overwrite starts anew.", quiet=quiet)
    values: dict[str, Any] = {"run": str(folder), "report": str(page), "findings": findings}
    _options.emit(
        {**values, "edges": msgspec.to_builtins(run.table("edges").to_dicts())}, as_json=as_json,
        lines=[*findings, "", f"report: {page}"],
    )  # fmt: skip
