"""`heredity sites`: where a model's activations can be read."""

from typing import TYPE_CHECKING

import click

from heredity.cli import _options

if TYPE_CHECKING:
    from heredity.features.sites import Place


@click.command()
@click.argument("model")
@click.option("--mlp", is_flag=True, help="Only the MLPs' insides, where features are usually read.")
@click.option("--match", "part", default="", metavar="TEXT", help="Only modules whose path has this in it.")
@_options.as_json
def command(model: str, mlp: bool, part: str, as_json: bool) -> None:
    """List every module of MODEL whose input or output is one row per token, with its widths.

    MODEL is a folder, a Hub id, or archive:FILE#FOLDER; its weights are not loaded. A star marks the hidden
    activations of a layer's MLP. Use a site as --site MODULE:input or --site MODULE:output.
    """
    from heredity.features.sites import places, recommended
    from heredity.models.architecture import kind_of, skeleton

    built = skeleton(model)
    every = places(built)
    found = [place for place in every if part in place.module and (place.mlp or not mlp)]
    best = recommended(every) if any(place.mlp for place in every) else None
    kind = kind_of(built.config)
    lines = [f"{type(built).__name__}: {kind}, {len(every)} modules", *_lines(found)]
    if best is not None:
        lines += ["", f"* the MLP's hidden activations; of the middle layer: --site {best}"]
    modules = [
        {"module": p.module, "class": p.kind, "layer": p.layer, "input": p.input, "output": p.output, "mlp": p.mlp}
        for p in found
    ]  # fmt: skip
    facts = {"model": model, "class": type(built).__name__, "kind": kind, "recommended": best}
    _options.emit({**facts, "modules": modules}, as_json=as_json, lines=lines)


def _lines(found: "list[Place]") -> list[str]:
    if not found:
        return ["no module fits"]
    rows = [("  module", "input", "output", "class")]
    rows += [
        (f"{'*' if p.mlp else ' '} {p.module}", _width(p.input), _width(p.output), p.kind) for p in found
    ]
    wide = max(len(row[0]) for row in rows)
    return [f"{name:<{wide}}  {into:>6}  {out:>6}  {kind}" for name, into, out, kind in rows]


def _width(width: int | None) -> str:
    return "-" if width is None else str(width)
