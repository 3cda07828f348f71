"""`heredity harvest`: run a model over text and keep what merging or features need of it."""

from pathlib import Path
from typing import Literal

import click

from heredity.cli import _options


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--input-gram", is_flag=True, help="Inner products of every linear layer's inputs, for regmean."
)
@click.option("--fisher", is_flag=True, help="Diagonal Fisher information of every weight, for fisher.")
@click.option(
    "--data",
    required=True,
    help="Folder of a token stream; or text: a file, a folder, text:GLOB, jsonl:GLOB …",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Statistics file to write.")
@click.option("--domain", "domains", multiple=True, help="Use this domain of the stream; repeatable.")
@click.option("--max-tokens", type=click.IntRange(2), help="Most tokens of each domain, or of the text.")
@click.option("--context", type=click.IntRange(2), help="Tokens of a sequence of text.  [default: up to 512]")
@click.option(
    "--labels", type=click.Choice(["model", "data"]), default="model", show_default=True,
    help="Of the Fisher information: drawn from the model, or those of the text (empirical).",
)  # fmt: skip
@click.option("--max-memory", default="4GB", show_default=True, metavar="SIZE", help="Most memory for sums.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True,
    help="In which the model runs.",
)  # fmt: skip
@_options.device
@_options.seed
@_options.resume
@_options.overwrite
@_options.as_json
@_options.quiet
def command(
    model: Path, input_gram: bool, fisher: bool, data: str, out: Path, domains: tuple[str, ...],
    max_tokens: int | None, context: int | None, labels: Literal["model", "data"], max_memory: str,
    dtype: str, device: str, seed: int, resume: bool, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Run MODEL over text: its statistics for data-driven merges, or its activations for SAEs."""
    if input_gram or fisher:
        from heredity.cli._statistics import harvest

        harvest(
            model, data, out, input_gram=input_gram, fisher=fisher, labels=labels, domains=domains,
            context=context, max_tokens=max_tokens, max_memory=max_memory, device=device, dtype=dtype,
            seed=seed, resume=resume, overwrite=overwrite, as_json=as_json, quiet=quiet,
        )  # fmt: skip
        return
    from heredity.errors import ConfigError

    raise ConfigError("harvest needs --input-gram or --fisher", "give one of them, or both")
