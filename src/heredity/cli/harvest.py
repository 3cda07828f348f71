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
@click.option(
    "--site", "sites", multiple=True, metavar="MODULE:SIDE",
    help="Activations at this site, for SAEs: MODULE:input or MODULE:output; repeatable, all in one pass.",
)  # fmt: skip
@click.option("--fisher", is_flag=True, help="Diagonal Fisher information of every weight, for fisher.")
@click.option(
    "--data", required=True, multiple=True, metavar="DATA",
    help="Folder of a token stream; or text: a file, a folder, text:GLOB, jsonl:GLOB … With --site repeatable, "
    "after DOMAIN= if named, or a .toml of corpora.",
)  # fmt: skip
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True,
    help="Statistics file, or folder of activations, to write.",
)  # fmt: skip
@click.option("--name", help="Name of the model in the activations' record.  [default: its folder's]")
@click.option(
    "--keep", type=click.Choice(["float16", "float32"]), default="float16", show_default=True,
    help="In which activations are kept on disk.",
)  # fmt: skip
@click.option("--domain", "domains", multiple=True, help="Use this domain of the stream; repeatable.")
@click.option("--max-tokens", type=click.IntRange(2), help="Most tokens of each domain, or of the text.")
@click.option(
    "--context", type=click.IntRange(2),
    help="Tokens of a sequence of text.  [default: up to 512; with --site 128]",
)  # fmt: skip
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
    model: Path, input_gram: bool, sites: tuple[str, ...], fisher: bool, data: tuple[str, ...], out: Path,
    name: str | None, keep: str, domains: tuple[str, ...],
    max_tokens: int | None, context: int | None, labels: Literal["model", "data"], max_memory: str,
    dtype: str, device: str, seed: int, resume: bool, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Run MODEL over text: its statistics for data-driven merges, or its activations for SAEs."""
    from heredity.errors import ConfigError

    if bool(sites) == (input_gram or fisher):
        raise ConfigError(
            "harvest takes either --site, or --input-gram and --fisher",
            "`heredity sites MODEL` lists the sites",
        )
    if sites:
        from heredity.cli import _activations

        _activations.harvest(
            model, sites, data, out, name=name, domains=domains, context=context, max_tokens=max_tokens, keep=keep,
            dtype=dtype, device=device, seed=seed, resume=resume, overwrite=overwrite, as_json=as_json, quiet=quiet,
        )  # fmt: skip
        return
    from heredity.cli import _statistics

    if len(data) > 1:
        raise ConfigError("statistics are taken over one --data", "give one, or a glob that names them all")
    _statistics.harvest(
        model, data[0], out, input_gram=input_gram, fisher=fisher, labels=labels, domains=domains,
        context=context, max_tokens=max_tokens, max_memory=max_memory, device=device, dtype=dtype,
        seed=seed, resume=resume, overwrite=overwrite, as_json=as_json, quiet=quiet,
    )  # fmt: skip
