"""`heredity region`: how good the ground is inside, in between, around and beyond the members of a family."""

from pathlib import Path

import click

from heredity.cli import _ground, _options


@click.command()
@click.argument("file", metavar="FAMILY", type=click.Path(path_type=Path))
@click.option("--by", default="", metavar="LABEL", help="Also compare each value's members with the others.")
@click.option(
    "--unit", default="data", show_default=True, metavar="LABEL",
    help="For intervals, resample the members of one value of this label together: fine-tunes of one set are alike.",
)  # fmt: skip
@_options.out
@_ground.measured_on
@_options.settings
@_options.seed
@_options.device
@_options.jobs
@_options.resume
@_options.overwrite
@_options.as_json
@_options.quiet
def command(
    file: Path, by: str, unit: str, out: Path | None, measured: _ground.Measured, settings: tuple[str, ...], seed: int,
    device: str, jobs: int, resume: bool, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Measure the region that FAMILY's members span: P_B of members, of their mixtures, and of models outside.

    Groups of --by are measured on the data that is named as their value or as a label of their members. Settings by
    --set: samples, redraws, redraw_samples, draws; pairs, edge, edge_steps, directions, radii. OUT gets tables
    (separation, places, edges, directions) and report.html.
    """
    import msgspec

    from heredity.cli._overrides import overrides
    from heredity.errors import ConfigError
    from heredity.family import Family, plain
    from heredity.regions.edges import EdgeSettings
    from heredity.regions.region import RegionSettings, labelled, survey_region
    from heredity.run import Run

    read = measured.read(seed=seed)  # what cannot be measured is refused before a folder is made
    family = Family.load(file)
    labelled(family, by)
    asked = overrides(settings)
    if "by" in asked:
        raise ConfigError("--set by: is an option of its own", "--by LABEL")
    far = {name: asked.pop(name) for name in list(asked) if name in EdgeSettings.__struct_fields__}
    try:
        chosen = msgspec.convert({"by": by} | asked, RegionSettings)
        edges = msgspec.convert(far, EdgeSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--set: {plain(error)}", "heredity region --help lists the settings") from None
    folder = out or Path("runs") / f"region-{family.name}"
    config = {
        "family": str(file), "unit": unit, **measured.record, "region": msgspec.to_builtins(chosen),
        "edges": msgspec.to_builtins(edges),
    }  # fmt: skip
    run = Run.open(folder, command="region", config=config, seed=seed, resume=resume, overwrite=overwrite)
    findings = _ground.survey(
        run, family, measured, read,
        lambda ground, metrics: survey_region(
            run, family, ground, metrics, chosen, edges, unit=unit,
            say=lambda line: _options.say(line, quiet=quiet),
        ),
        device=device, jobs=jobs,
    )  # fmt: skip
    _ground.tell(run, findings, as_json=as_json, tables=["separation"])
