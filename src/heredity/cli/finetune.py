"""`heredity finetune`: one fine-tune of one model on one set of labelled texts."""

from pathlib import Path

import click

from heredity.cli import _options


@click.command()
@click.argument("model")
@click.option(
    "--data", required=True, metavar="DATA",
    help="NAME.train.jsonl (with NAME.test.jsonl beside it), a folder of train and test files, or hf:NAME.",
)  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the result.")
@click.option(
    "--method", type=click.Choice(["full", "bitfit", "head", "lora"]), default="full", show_default=True,
    help="Train everything, biases and a head, the head only, or LoRA factors (merged when saved).",
)  # fmt: skip
@click.option(
    "--as", "kind", type=click.Choice(["classify", "lm"]),
    help="Train a new head on the labels, or a causal LM on the texts.  [default: classify]",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(2), help="Train on so many rows only, drawn by --data-seed.")
@click.option("--data-seed", type=int, default=0, show_default=True, help="Of rows held out, and of --limit.")
@click.option(
    "--field", "fields", multiple=True, metavar="NAME=COLUMN", help="Column of text, pair or label."
)
@click.option("--dtype", default="float32", show_default=True, help="Of the forward pass.")
@_options.settings
@_options.seed
@_options.device
@_options.overwrite
@_options.as_json
@_options.quiet
def command(
    model: str, data: str, out: Path, method: str, kind: str | None, limit: int | None, data_seed: int,
    fields: tuple[str, ...], dtype: str, settings: tuple[str, ...], seed: int, device: str, overwrite: bool,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Fine-tune MODEL (a folder, a Hub id, or archive:FILE#FOLDER) on labelled texts.

    OUT is a checkpoint with finetune.json (settings, scores, cost), the loss of every epoch, what each training
    example was like to learn (cartography.parquet), and every prediction on the test part. Settings by --set:
    learning_rate, head_learning_rate, epochs, batch, max_tokens, weight_decay, warmup, patience, layers,
    freeze_embeddings, rank.
    """
    import msgspec

    from heredity.cli._overrides import overrides
    from heredity.corpora.labelled import Fields, read_task
    from heredity.errors import ConfigError
    from heredity.family import plain
    from heredity.models.finetune import finetune
    from heredity.models.tuning import FineTuning

    asked = overrides(settings)
    if "method" in asked:
        raise ConfigError("--set method: is an option of its own", "--method")
    try:
        config = msgspec.convert({"method": method} | asked, FineTuning)
        columns = msgspec.convert(overrides(fields), Fields)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"--set or --field: {plain(error)}", "heredity finetune --help lists the settings"
        ) from None
    task = read_task(data, fields=columns, labelled=kind != "lm", limit=limit, seed=data_seed)
    made = finetune(
        model, task, out, config, seed=seed, kind=kind, device=device, dtype=dtype, overwrite=overwrite,  # type: ignore[arg-type]
        progress=_options.progress(quiet), say=lambda text: _options.say(text, quiet=quiet),
    )  # fmt: skip
    for note in made.notes:
        _options.say(f"note: {note}", quiet=quiet)
    lines = [f"{name}: {value:.4f}" for name, value in made.scores.items()]
    _options.emit(
        {"out": str(out), "scores": made.scores, "cost": made.cost, "notes": list(made.notes)},
        as_json=as_json,
        lines=[*lines, "", f"model: {out}"],
    )
