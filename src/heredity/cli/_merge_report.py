"""The page and the table of a merge, from its lock: nothing but headers is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heredity.errors import ConfigError
from heredity.merging.recipe import Recipe, Source
from heredity.merging.resolve import ordered_sources
from heredity.merging.tables import as_table, grouped_rows, tensor_rows
from heredity.merging.verify import read_lock


def write_merge_report(out: Path, page: Path) -> list[Path]:
    """Write the page of a merged folder, and beside it a table with a row for every tensor.

    Args:
        out: the folder, with its lock.
        page: the HTML file; the table gets its name with .parquet.

    Returns:
        Both files.

    Raises:
        ConfigError: the folder is no merge, or one that is an adapter.
    """
    from heredity.atomic import replacing, write_text
    from heredity.report.merge_page import draw_merge

    merged = told(out)
    page, table = Path(page), Path(page).with_suffix(".parquet")
    write_text(page, draw_merge(merged))
    with replacing(table) as temporary:
        as_table(merged.tensors).write_parquet(temporary)
    return [page, table]


def told(out: Path) -> Any:
    """Return what the page of a merged folder tells, a `report.merge_page.Merged`."""
    from heredity.checkpoint import Checkpoint
    from heredity.report.merge_page import Merged
    from heredity.tomlfile import to_toml

    lock = read_lock(out)
    if "adapter" in lock:
        raise ConfigError(
            f"{out}: an adapter has no page; its ranks and errors are in its lock and card",
            "report a whole model",
        )
    written = Checkpoint.open(out)
    rows = tensor_rows(lock, {name: info.size for name, info in written.tensors.items()})
    recipe = Recipe.of(lock["recipe"]["merge"])
    slices = [ordered_sources(recipe, entry) for entry in recipe.slices]
    based = slices[0][1]
    deltas = based and recipe.kind.inputs.base != "first"
    files = [
        {"role": model["name"], "name": name} | known
        for model in lock["inputs"]
        for name, known in model["files"].items()
    ]
    files += [{"role": "result", "name": name} | known for name, known in lock["outputs"].items()]
    record = {key: lock[key] for key in ("donor", "seed", "notes")}
    return Merged(
        name=out.absolute().name, method=recipe.method, inputs=_names(slices), deltas=deltas,
        elementwise=not any(row["coefficients"] for row in rows), whole=grouped_rows(rows)[0],
        layers=grouped_rows(rows, ("layer",)), kinds=grouped_rows(rows, ("kind",)),
        cells=grouped_rows(rows, ("layer", "kind")), tensors=rows, files=files,
        record=record | {"version": lock["heredity"], "recipe": to_toml(lock["recipe"]).strip()},
    )  # fmt: skip


def _names(slices: Sequence[tuple[Sequence[Source], bool]]) -> tuple[str, ...]:
    """Return a name for each input: where slices have several in its place, its number."""
    places = [
        list(dict.fromkeys(source.model for source in place))
        for place in zip(*(s for s, _ in slices), strict=False)
    ]
    names = [place[0] if len(place) == 1 else f"input {i + 1}" for i, place in enumerate(places)]
    last = [Path(name).name or name for name in names]
    return tuple(end if last.count(end) == 1 else name for end, name in zip(last, names, strict=True))
