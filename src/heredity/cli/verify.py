"""`heredity verify`: check a merge that was written."""

from pathlib import Path

import click

from heredity.cli import _options


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--tensors", type=click.IntRange(0), default=3, show_default=True, help="Tensors to make again."
)
@click.option("--no-inputs", is_flag=True, help="Do not check the models' hashes.")
@_options.seed
@_options.pickles
@_options.as_json
def command(out: Path, tensors: int, no_inputs: bool, seed: int, as_json: bool) -> None:
    """Check the hashes of a merge in OUT, and make some of its tensors again from the models."""
    from heredity.checkpoint import ADAPTER_CONFIG
    from heredity.merging.verify import verify

    found = verify(out, tensors=tensors, seed=seed, inputs=not no_inputs)
    lines = [
        f"{out}: {len(found.outputs)} files, and {len(found.inputs)} of models, have the hashes of the lock"
    ]
    same = "the error that is stated" if (out / ADAPTER_CONFIG).exists() else "same bytes"
    lines += [f"made again, {same}: {', '.join(found.tensors)}"] if found.tensors else []
    lines += [f"the lock has no hash of {', '.join(found.unknown)}"] if found.unknown else []
    _options.emit(found._asdict(), as_json=as_json, lines=lines)
