"""`heredity inspect`: what checkpoints are, from their headers alone."""

from typing import Any

import click

from heredity.cli import _options


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT…")
@click.option("--revision", help="Branch, tag or commit of a Hub id.")
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option("--hash", "hash_files", is_flag=True, help="Read the files for hashes that are not known yet.")
@click.option("--tensors", is_flag=True, help="List every tensor.")
@_options.pickles
@_options.as_json
def command(
    checkpoints: tuple[str, ...],
    revision: str | None,
    offline: bool,
    hash_files: bool,
    tensors: bool,
    as_json: bool,
) -> None:
    """Print architecture, tensors, sizes, number formats, hashes and parents, without reading weights.

    CKPT is a folder, a .safetensors file, a LoRA folder, or a Hub id (org/name or org/name@revision). A Hub
    id that is not in the cache is described from the headers on the Hub; its weights are not downloaded.
    """
    from heredity.inspection import describe, lines

    found: list[dict[str, Any]] = [
        describe(ref, revision=revision, offline=offline or None, hash_files=hash_files)
        for ref in checkpoints
    ]
    shown = [line for facts in found for line in lines(facts, tensors=tensors)]
    if not tensors:
        for facts in found:
            del facts["tensors"]
    _options.emit({"checkpoints": found}, as_json=as_json, lines=shown)
