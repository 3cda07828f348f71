"""Options that several verbs share, so that a name means the same everywhere."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

out = click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder to write to.")
seed = click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="The one seed of every draw.",
)
device = click.option("--device", default="cpu", show_default=True, help="Torch device: cpu, cuda, cuda:1.")
jobs = click.option("-j", "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Workers.")
resume = click.option("--resume", is_flag=True, help="Go on with an interrupted run in OUT.")
overwrite = click.option("--overwrite", is_flag=True, help="Discard what an earlier run left in OUT.")


def _allow_pickles(context: click.Context, _: click.Parameter, allowed: bool) -> None:
    if allowed:
        from heredity.checkpoint import allowing_pickles

        context.with_resource(allowing_pickles())


pickles = click.option(
    "--allow-pickle-weights", is_flag=True, expose_value=False, callback=_allow_pickles,
    help="Open pytorch_model.bin: its tensors alone are read, once, and kept in the cache; needs torch.",
)  # fmt: skip
as_adapter = click.option(
    "--as-adapter",
    is_flag=True,
    help="The result is a LoRA folder: where the models are adapters of one base.",
)
rank = click.option(
    "--rank", type=click.IntRange(1), help="Largest rank of --as-adapter; default: exact, the ranks' sum."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
crosscoder = click.option(
    "--crosscoder", is_flag=True,
    help="Train a crosscoder over all members, too, and set it against correlation; --set crosscoder.k=16 …",
)  # fmt: skip
init = click.option(
    "--init", type=click.Choice(["random", "parent"]),
    help="Where SAEs begin; parent: each child's at its parent's of the same seed, latents keep their numbers.  "
    "[default: random]",
)  # fmt: skip
quiet = click.option("-q", "--quiet", is_flag=True, help="Print results only: no progress, no log.")
settings = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one setting; repeatable."
)


def progress(quiet: bool) -> bool:
    """Say whether progress bars are drawn: on a terminal, unless asked to be quiet."""
    return not quiet and sys.stderr.isatty()


def say(text: str, *, quiet: bool = False) -> None:
    """Print a line of progress on stderr."""
    if not quiet:
        click.echo(text, err=True)


def emit(values: dict[str, Any], *, as_json: bool, lines: list[str]) -> None:
    """Print a result on stdout: the lines for people, or one JSON object with its schema number."""
    if as_json:
        click.echo(json.dumps({"schema": 1, **values}, ensure_ascii=False))
    else:
        click.echo("\n".join(lines))
