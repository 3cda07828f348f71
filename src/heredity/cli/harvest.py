"""`heredity harvest`: run a model over text and keep what merging or features need of it."""

from pathlib import Path

import click

from heredity.cli import _options


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--input-gram", is_flag=True, help="Inner products of every linear layer's inputs, for regmean."
)
@click.option("--fisher", is_flag=True, help="Diagonal Fisher information of every weight, for fisher.")
@click.option(
    "--data", required=True, metavar="STREAM", help="Folder of a token stream, or a source of text."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="What to write.")
@_options.device
@_options.seed
@_options.resume
@_options.overwrite
@_options.as_json
@_options.quiet
def command(
    model: Path, input_gram: bool, fisher: bool, data: str, out: Path, device: str, seed: int, resume: bool,
    overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Run MODEL over text: its statistics for data-driven merges, or its activations for SAEs."""
    if input_gram or fisher:
        from heredity.cli import _statistics

        _statistics.harvest(
            model, data, out, input_gram=input_gram, fisher=fisher, device=device, seed=seed, resume=resume,
            overwrite=overwrite, as_json=as_json, quiet=quiet,
        )  # fmt: skip
        return
    from heredity.errors import ConfigError

    raise ConfigError("harvest needs --input-gram or --fisher", "give one of them, or both")
