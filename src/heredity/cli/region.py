"""`heredity region`: how good the ground is inside, in between, around and beyond the members of a family."""

from pathlib import Path

import click

from heredity.cli import _ground, _options


@click.command()
@click.argument("file", metavar="FAMILY", type=click.Path(path_type=Path))
@click.option("--by", default="", metavar="LABEL", help="Also compare each value's members with the others.")
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
    file: Path, by: str, out: Path | None, data: tuple[str, ...], text: Path | None, own_heads: bool, rows: int,
    max_tokens: int, dtype: str, settings: tuple[str, ...], seed: int, device: str, jobs: int, resume: bool,
    overwrite: bool, as_json: bool, quiet: bool,
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
    from heredity.regions.ground import Ground
    from heredity.regions.region import RegionSettings, survey_region
    from heredity.report import write_report
    from heredity.run import Run

    kind = _ground.given(data, text, own_heads)
    family = Family.load(file)
    asked = overrides(settings)
    far = {name: asked.pop(name) for name in list(asked) if name in EdgeSettings.__struct_fields__}
    try:
        chosen = msgspec.convert({"by": by} | asked, RegionSettings)
        edges = msgspec.convert(far, EdgeSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--set: {plain(error)}", "heredity region --help lists the settings") from None
    folder = out or Path("runs") / f"region-{family.name}"
    config = {
        "family": str(file), "data": list(data), "text": None if text is None else str(text), "own_heads": own_heads,
        "rows": rows, "max_tokens": max_tokens, "dtype": dtype, "region": msgspec.to_builtins(chosen),
        "edges": msgspec.to_builtins(edges),
    }  # fmt: skip
    run = Run.open(folder, command="region", config=config, seed=seed, resume=resume, overwrite=overwrite)
    with run.recorded():
        ground = Ground.open(family, kind=kind, folder=run.folder("ground"), device=device, jobs=jobs)
        metrics = _ground.metrics_for(
            family,
            ground,
            data,
            text,
            heads=own_heads,
            rows=rows,
            max_tokens=max_tokens,
            dtype=dtype,
            seed=seed,
        )
        findings = survey_region(
            run, family, ground, metrics, chosen, edges, say=lambda line: _options.say(line, quiet=quiet)
        )
        findings = _ground.finish(run, findings, metrics)
        ground.close()
        write_report(run)
    page = folder / "report.html"
    _options.emit(
        {
            "run": str(folder), "report": str(page), "findings": findings,
            "separation": _ground.plain_rows(run, "separation"),
        },
        as_json=as_json, lines=[*findings, "", f"report: {page}"],
    )  # fmt: skip
