"""`heredity merge`: carry out a recipe."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from heredity.cli import _options


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--donor", help="Whose configuration and tokenizer OUT gets; default: the base, else the first model."
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Format of the weights.")
@click.option("--shard-gb", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True)
@click.option(
    "--plan", "agreed", type=click.Path(path_type=Path), help="Merge only what this plan was made of."
)
@click.option(
    "--hash-inputs", is_flag=True, help="Record the models' digests even if they must be read for it."
)
@click.option(
    "--report", "page", type=click.Path(path_type=Path), metavar="FILE",
    help="Write a page of what the merge did, and beside it a table, FILE with .parquet; not into OUT.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Plan and check, write nothing.")
@_options.as_adapter
@_options.rank
@_options.jobs
@click.option("--ray", metavar="ADDRESS", help="Write shards on a Ray cluster; 'local' starts one.")
@_options.settings
@_options.resume
@_options.overwrite
@_options.pickles
@_options.as_json
@_options.quiet
def command(
    recipe: Path, out: Path, donor: str | None, dtype: str | None, shard_gb: float, agreed: Path | None,
    hash_inputs: bool, page: Path | None, dry_run: bool, as_adapter: bool, rank: int | None, jobs: int, ray: str | None,
    settings: tuple[str, ...], resume: bool, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Merge the models of RECIPE (TOML, or mergekit's YAML) into the folder OUT."""
    from heredity.cli._overrides import overrides
    from heredity.errors import ConfigError
    from heredity.merging.adapter_changes import adapter_summary
    from heredity.merging.output import check_agreed
    from heredity.merging.recipe import Recipe, asked
    from heredity.merging.resolve import resolve
    from heredity.merging.summary import plan_summary
    from heredity.merging.tables import grouped_rows, tensor_rows
    from heredity.merging.verify import read_lock

    if page is not None and page.absolute().is_relative_to(out.absolute()):
        raise ConfigError(f"{page}: lies in {out}, which is a checkpoint and nothing else", "put it beside")
    if not quiet:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    read = Recipe.load(recipe, overrides(settings))
    if agreed is not None:
        check_agreed(resolve(read), json.loads(agreed.read_text()), agreed)
    read = asked(read, donor=donor, dtype=dtype, as_adapter=as_adapter, rank=rank)
    if page is not None and read.output == "adapter":
        raise ConfigError(
            f"{page}: an adapter has no page", "its ranks and errors are printed, and in its lock"
        )
    merge = resolve(read)
    found = plan_summary(merge, read, out)
    if read.output == "adapter":
        found |= adapter_summary(merge)
    if dry_run:
        what = (
            f"an adapter of {found['tensors']} tensors"
            if read.output == "adapter"
            else f"{found['tensors']} tensors"
        )
        lines = [f"would merge {what} into {out}, {found['write_bytes'] / 1e9:.2f} GB"]
        _options.emit(found, as_json=as_json, lines=lines)
        return
    for note in merge.plan.notes:
        _options.say(f"note: {note}", quiet=quiet)
    with _bar(found["write_bytes"], _options.progress(quiet)) as progress:
        merge.save(
            out, shard_bytes=max(1, int(shard_gb * 1e9)), resume=resume, overwrite=overwrite,
            hash_inputs=hash_inputs, jobs=jobs, ray=ray, progress=progress,
        )  # fmt: skip
    lock = read_lock(out)
    written = sum(entry["bytes"] for entry in lock["outputs"].values())
    values = {"out": str(out), "bytes": written, "outputs": lock["outputs"]}
    merged = f"{len(lock['tensors'])} tensors merged by {read.method}"
    if "adapter" in lock:
        facts = lock["adapter"]
        low, high = facts["ranks"]
        error = facts["relative_error"]
        off = f"the difference from the base is off by {error:.2g} of its norm" if error else "exact"
        lines = [
            f"{out}: an adapter of {facts['base_name']}, {merged}, {written / 1e6:.1f} MB",
            f"rank {low if low == high else f'{low} to {high}'}; {off}",
        ]
        _options.emit({**values, "adapter": facts}, as_json=as_json, lines=lines)
        return
    sizes = {name: merge.plan.tensors[name].size for name in lock["tensors"]}
    layers = grouped_rows(tensor_rows(lock, sizes), ("layer",))
    lines = [f"{out}: {merged}, {written / 1e9:.2f} GB", *_table(layers)]
    if page is not None:
        from heredity.cli._merge_report import write_merge_report

        files = [str(file) for file in write_merge_report(out, page)]
        values["report"], lines = files, [*lines, f"report: {', '.join(files)}"]
    _options.emit({**values, "layers": layers}, as_json=as_json, lines=lines)


_SHOWN = ("tensors", "t", "cosine", "sign_conflicts", "kept", "explained", "lerp", "averaged")


def _table(rows: list[dict[str, Any]]) -> list[str]:
    columns = ["layer", *(c for c in _SHOWN if any(row[c] for row in rows))] if rows else []
    shown = [["—" if row[c] is None else f"{row[c]:.4g}" for c in columns] for row in rows]
    widths = [max(len(c), *(len(line[i]) for line in shown)) for i, c in enumerate(columns)]
    return [
        "  ".join(f"{text:>{w}}" for text, w in zip(line, widths, strict=True)) for line in [columns, *shown]
    ]


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[str, int], None]]:
    from tqdm import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, disable=not shown) as bar:

        def advance(name: str, nbytes: int) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update(nbytes)

        yield advance
