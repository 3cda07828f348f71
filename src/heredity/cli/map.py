"""`heredity map`: a family's weights, read once, as tables and one page."""

from pathlib import Path

import click

from heredity.cli import _options


@click.command()
@click.argument("family", type=click.Path(path_type=Path))
@_options.out
@click.option("--base", help="The member to measure task vectors from.  [default: the family's base]")
@click.option("--by", multiple=True, metavar="LABEL", help="Score clusters against a label; repeatable.")
@click.option(
    "--units", metavar="LABEL", help="Shuffle labels between the values of this one, such as data sets."
)
@click.option(
    "-k", "--clusters", type=click.IntRange(1), help="Number of clusters.  [default: by the eigengap]"
)
@click.option(
    "--group", type=click.Choice(["all", "layer", "kind", "tensor"]), default="layer", show_default=True,
    help="Compare models also within these groups of tensors.",
)  # fmt: skip
@click.option("--centre", is_flag=True, help="Take away what all members share; mends mixed dtypes.")
@click.option("--equal-weight", is_flag=True, help="Count every tensor the same, whatever its size.")
@click.option("--include-head", is_flag=True, help="Compare output heads too.")
@click.option("--allow-partial", is_flag=True, help="Compare what all members share where tensors differ.")
@click.option("--allow-nonfinite", is_flag=True, help="Leave out tensors that hold NaN or infinity.")
@click.option(
    "--permutations", type=click.IntRange(99), default=1000, show_default=True, help="Shuffles of each null."
)
@click.option(
    "--max-memory", default="512MB", show_default=True, metavar="SIZE", help="Most memory for buffers."
)
@click.option("--ray", metavar="ADDRESS", help="Measure on a Ray cluster; 'local' starts one.")
@_options.jobs
@_options.seed
@_options.resume
@_options.overwrite
@_options.pickles
@_options.as_json
@_options.quiet
def command(
    family: Path, out: Path | None, base: str | None, by: tuple[str, ...], units: str | None,
    clusters: int | None, group: str, centre: bool, equal_weight: bool, include_head: bool,
    allow_partial: bool, allow_nonfinite: bool, permutations: int, max_memory: str, ray: str | None,
    jobs: int, seed: int, resume: bool, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Map FAMILY (a family.toml, or a folder with one): who is related, how closely, who descends from whom.

    Reads every checkpoint once. Writes tables (Parquet), map.json, trees as Newick, and report.html to OUT.
    """
    from heredity.cli import _mapping
    from heredity.errors import ConfigError
    from heredity.family import Family
    from heredity.run import Run

    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", "choose one")
    loaded = Family.load(family)
    settings = _mapping.Settings(
        base=base, by=by, units=units, clusters=clusters, group=group, centre=centre,
        equal_weight=equal_weight, include_head=include_head, allow_partial=allow_partial,
        allow_nonfinite=allow_nonfinite,
        permutations=permutations,
    )  # fmt: skip
    buffers = _mapping.size_in_bytes(max_memory)
    _mapping.check(loaded, settings)
    folder = out or Path("runs") / f"map-{loaded.name}"
    config = {"family": str(family), "name": loaded.name} | settings.plain()
    run = Run.open(folder, command="map", config=config, seed=seed, resume=resume, overwrite=overwrite)
    with run.recorded():
        made = _mapping.map_family(
            run, loaded, settings, jobs=jobs, ray=ray, max_memory=buffers, progress=_options.progress(quiet)
        )
    page = folder / "report.html"
    lines = [*made["findings"], *(f"warning: {text}" for text in made["warnings"]), "", f"report: {page}"]
    _options.emit({"run": str(folder), "report": str(page)} | made, as_json=as_json, lines=lines)
