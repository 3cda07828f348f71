"""`heredity start`: choose the checkpoint, or the mean of checkpoints, that the next fine-tune starts from."""

from pathlib import Path

import click

from heredity.cli import _ground, _options


@click.command()
@click.argument("file", metavar="FAMILY", type=click.Path(path_type=Path))
@click.option(
    "--task", required=True, metavar="DATA", help="The next task: NAME.train.jsonl, a folder, or hf:NAME."
)
@_options.out
@click.option(
    "--budget",
    type=click.IntRange(1),
    metavar="N",
    help="Training rows of a full fine-tune.  [default: three epochs]",
)
@click.option(
    "--method", type=click.Choice(["full", "bitfit", "head"]), default="full", show_default=True,
    help="How the task will be fine-tuned.",
)  # fmt: skip
@click.option("--as", "kind", type=click.Choice(["classify", "lm"]), default="classify", show_default=True)
@click.option("--limit", type=click.IntRange(16), help="Use so many training rows only.")
@click.option(
    "--leave-out",
    multiple=True,
    metavar="NAME",
    help="Members, or values of a label, not to be used; repeatable.",
)
@_ground.max_tokens
@_ground.dtype
@_options.settings
@_options.seed
@_options.device
@_options.jobs
@_options.resume
@_options.overwrite
@_options.as_json
@_options.quiet
def command(
    file: Path, task: str, out: Path | None, budget: int | None, method: str, kind: str, limit: int | None,
    leave_out: tuple[str, ...], max_tokens: int, dtype: str, settings: tuple[str, ...], seed: int, device: str,
    jobs: int, resume: bool, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Find the best start in FAMILY for a task: the base, a member, or a mean of members.

    Candidates are recalled by cluster, scored by a cheap proxy on training rows, and the best go through real
    fine-tunes at growing shares of the budget. OUT/start is the chosen checkpoint; the evidence is in tables
    (evidence, rungs, cost) and report.html. Settings by --set: those of the search (proxy_rows, clusters, finalists,
    rungs, seeds) and of the fine-tune (learning_rate, head_learning_rate, batch, weight_decay, warmup, patience,
    freeze_embeddings).
    """
    import msgspec

    from heredity.cli._overrides import overrides
    from heredity.corpora.labelled import read_task
    from heredity.errors import ConfigError
    from heredity.family import Family, plain
    from heredity.models.load import dtype_of, tokenizer
    from heredity.models.tuning import FineTuning
    from heredity.regions.candidates import usable
    from heredity.regions.ground import Ground
    from heredity.regions.start import StartSettings
    from heredity.regions.starting import choose_start, within
    from heredity.report import write_report
    from heredity.run import Run

    asked = overrides(settings)
    twice = next((name for name in ("method", "max_tokens") if name in asked), None)
    if twice:
        raise ConfigError(f"--set {twice}: is an option of its own", f"--{twice.replace('_', '-')}")
    search = {name: asked.pop(name) for name in list(asked) if name in StartSettings.__struct_fields__}
    try:
        chosen = msgspec.convert(search, StartSettings)
        config = msgspec.convert({"method": method, "max_tokens": max_tokens} | asked, FineTuning)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--set: {plain(error)}", "heredity start --help lists the settings") from None
    if config.layers is not None:
        raise ConfigError("layers of a start are not cut", "leave `layers` out")
    family = Family.load(file)
    members = usable(family, leave_out)
    data = read_task(task, labelled=kind == "classify", limit=limit, seed=seed)
    dtype_of(dtype)
    if kind == "lm" and data.train.pairs is not None:
        raise ConfigError(
            f"{data.name}: pairs of texts, and a language model as it stands has no head for pairs",
            "--as classify puts a head on it",
        )
    config = within(config, budget, len(data.train))
    folder = out or Path("runs") / f"start-{family.name}-{data.name}"
    record = {
        "family": str(file), "task": task, "as": kind, "budget": budget, "limit": limit, "leave_out": list(leave_out),
        "dtype": dtype, "search": msgspec.to_builtins(chosen), "tuning": msgspec.to_builtins(config),
    }  # fmt: skip
    run = Run.open(folder, command="start", config=record, seed=seed, resume=resume, overwrite=overwrite)
    with run.recorded():
        ground = Ground.open(
            family, kind="encoder" if kind == "classify" else "lm", folder=run.folder("ground"), device=device,
            jobs=jobs,
        )  # fmt: skip
        words = tokenizer(ground.checkpoints[ground.base].path)
        findings = choose_start(
            run, family, ground, data, config, chosen, members=members, dtype=dtype, tokenizer=words,
            say=lambda line: _options.say(line, quiet=quiet),
        )  # fmt: skip
        ground.close()
        write_report(run)
    page, start = folder / "report.html", folder / "start"
    _options.emit(
        {
            "run": str(folder), "report": str(page), "start": str(start), "findings": findings,
            "evidence": _ground.plain_rows(run, "evidence"), "cost": _ground.plain_rows(run, "cost"),
        },
        as_json=as_json, lines=[*findings, "", f"start: {start}", f"report: {page}"],
    )  # fmt: skip
