"""`heredity plan`: what a recipe will do, from headers only."""

import json
from pathlib import Path
from typing import Any

import click

from heredity.cli import _options


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--measure", is_flag=True, help="Read the weights once, to tell which tensors SLERP treats as lerp."
)
@click.option(
    "--save", "record", type=click.Path(path_type=Path), help="Write the plan; merge --plan refuses others."
)
@_options.as_adapter
@_options.rank
@_options.settings
@_options.pickles
@_options.as_json
def command(
    recipe: Path, measure: bool, record: Path | None, as_adapter: bool, rank: int | None,
    settings: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Tell what RECIPE will read, write and need, and what its filters match."""
    from heredity.atomic import write_text
    from heredity.cli._overrides import overrides
    from heredity.merging.adapter_changes import adapter_summary
    from heredity.merging.output import plan_record
    from heredity.merging.recipe import Recipe, asked
    from heredity.merging.resolve import resolve
    from heredity.merging.summary import lerp_tensors, plan_summary

    plain = Recipe.load(recipe, overrides(settings))
    read = asked(plain, as_adapter=as_adapter, rank=rank)
    merge = resolve(read)
    found = plan_summary(merge, read)
    if read.output == "adapter":
        found |= adapter_summary(merge)
    if measure:
        found["lerp"] = lerp_tensors(merge)
    if record is not None:
        write_text(record, json.dumps(plan_record(resolve(plain)), indent=1) + "\n")
    _options.emit(found, as_json=as_json, lines=_lines(found))


def _lines(found: dict[str, Any]) -> list[str]:
    gigabytes = {k: found[k] / 1e9 for k in ("read_bytes", "write_bytes", "free_bytes")}
    lines = [
        f"method   {', '.join(found['methods'])}",
        f"models   {', '.join(found['models'])}",
        f"donor    {found['donor']}",
        f"tensors  {found['tensors']} ({found['elements']:,} weights; {found['copied']} copied)",
        f"read     {gigabytes['read_bytes']:.2f} GB in {found['passes']} pass(es)",
        f"write    {gigabytes['write_bytes']:.2f} GB as {', '.join(found['dtypes'])}",
        f"free     {gigabytes['free_bytes']:.1f} GB",
        f"buffers  {found['buffer_bytes'] / 1e6:.0f} MB",
    ]
    if "ranks" in found:
        low, high = found["ranks"]
        lines.append(
            f"adapter  rank {low if low == high else f'{low} to {high}'}, {found['whole']} tensors whole"
        )
    for key, counts in found["filters"].items():
        lines += [f"filter   {key}: '{name}' decides {count} tensors" for name, count in counts.items()]
    if "lerp" in found:
        lines.append(f"lerp     {len(found['lerp'])} tensors are nearly collinear")
    return lines + [f"note     {note}" for note in found["notes"]]
