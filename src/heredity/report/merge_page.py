"""A merge's page: how its models lie to each other, where the result lies, what the method used.

It is drawn from rows that the merge's own passes made; a merged folder is a checkpoint and not a run, so the
page stands beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import polars as pl

from heredity.report import formats, merge_figures
from heredity.report.figures import Plot
from heredity.report.html import Figure, Section, page
from heredity.report.palette import MEMBER_COLOURS

COMMANDS: tuple[str, ...] = ()  # draws no run

_LINES = 8  # models; of more, the least, the mean and the greatest are drawn
_ROWS = 2000  # tensors; of more, the largest are listed

Row = dict[str, Any]


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """What the page tells.

    Attributes:
        name: of the result.
        method: name of the method.
        inputs: names in the order of coefficients, the base or the first model first.
        deltas: the first input is a base, and cosines are of task vectors.
        elementwise: the method treats elements of a tensor differently: shares are the nearest ones.
        whole: sums over all tensors.
        layers: by layer; the last one, outside the layers, has layer None.
        kinds: by kind of tensor.
        cells: by both.
        tensors: one row each.
        files: name, bytes and digest (or None) of every input and output file.
        record: donor, seed, version, notes, recipe as text.
    """

    name: str
    method: str
    inputs: tuple[str, ...]
    deltas: bool
    elementwise: bool
    whole: Row
    layers: list[Row]
    kinds: list[Row]
    cells: list[Row]
    tensors: list[Row]
    files: list[Row]
    record: Row

    @property
    def models(self) -> tuple[str, ...]:
        """The inputs that are merged: without the base."""
        return self.inputs[1:] if self.deltas else self.inputs

    @property
    def colours(self) -> tuple[str, ...]:
        """CSS variable of each model."""
        return tuple(f"var(--member-{1 + i % (MEMBER_COLOURS - 1)})" for i in range(len(self.models)))


def draw_merge(merged: Merged) -> str:
    """Render the page of a merge."""
    sections = [_models(merged), _result(merged), _used(merged), _by(merged), _tensors(merged), _made(merged)]
    return page(
        title=f"The merge {merged.name}",
        kicker=f"heredity merge · {merged.method}",
        lead=[text.replace(" %", "\u00a0%") for text in findings(merged)],
        sections=[section for section in sections if section is not None],
    )


def findings(merged: Merged) -> list[str]:
    """Return what the page says first, in plain sentences."""
    whole, models = merged.whole, merged.models
    base = f", as differences from {merged.inputs[0]}" if merged.deltas else ""
    found = [
        f"{merged.name} was merged by {merged.method} from {_listed(models)}{base}: "
        f"{formats.count(whole['tensors'])} tensors, {formats.count(whole['elements'])} weights."
    ]
    what = "Task vectors" if merged.deltas else "The weights"
    if whole["cosines"]:
        low, high = min(whole["cosines"]), max(whole["cosines"])
        found.append(f"{what} of two models have cosines of {formats.decimal_range(low, high)}.")
    elif whole["cosine"] is not None:
        how = "a cosine" if len(models) == 2 else "for pairs a mean cosine"
        found.append(f"{what} have {how} of {formats.decimal(whole['cosine'])}{_range(merged, 'cosine')}.")
    if whole["lerp"]:
        fallen = sum(bool(row["lerp"]) for row in merged.tensors)
        found.append(
            f"In {fallen} of {len(merged.tensors)} tensors the models are so near to each other that SLERP is "
            "the straight line."
        )
    if whole["t"] is not None and len(models) == 2:
        where = f"between {models[0]} (t = 0) and {models[1]} (t = 1)"
        found.append(f"The result lies at t = {formats.decimal(whole['t'])} {where}{_range(merged, 't')}.")
    if whole["kept_each"] and len(whole["kept_each"]) <= _LINES:
        shares = zip(whole["kept_each"], models[-len(whole["kept_each"]) :], strict=True)
        found.append(
            f"Of the changes, {_listed([f'{formats.percent(s)} of {m}' for s, m in shares])} are used."
        )
    if whole["sign_conflicts"] is not None:
        changes = "changes that are used" if whole["kept_each"] else "changes"
        share = formats.percent(whole["sign_conflicts"])
        found.append(f"In {share} of the weights the models' {changes} have opposite signs.")
    if whole["explained"] is not None:
        vectors = "task vectors" if merged.deltas else "models"
        share = formats.percent(whole["explained"])
        found.append(
            f"The nearest mixture of whole {vectors} explains {share} of the change; the rest is done within tensors."
        )
    if whole["averaged"]:
        count = sum(bool(row["averaged"]) for row in merged.tensors)
        means = (
            "tensor without statistics is a plain mean"
            if count == 1
            else "tensors without statistics are plain means"
        )
        found.append(f"{count} {means}.")
    return found


def _models(merged: Merged) -> Section | None:
    if not any(row["moved"] for row in merged.layers):
        return None
    names, moved = merged.inputs[1:], [row["moved"] for row in merged.layers]
    first, who = merged.inputs[0], names[0] if len(names) == 1 else "each model"
    figures = [
        Figure(
            name="moved", caption=f"Distance of {who} from {first}, over the norm of {first}, by layer.",
            plot=_lines(merged, "moved", names, "distance / norm"), height=320,
            numbers=_numbers(merged.layers, "layer", names, moved),
        )
    ]  # fmt: skip
    if any(cell["cosine"] is not None for cell in merged.cells):
        plot = merge_figures.field(_ranked(merged), "cosine", **_cosine_scale(merged))
        what = "task vectors" if merged.deltas else "weights"
        text = f"Cosine of the {what} of two models, by layer and kind of tensor" + (
            "." if len(merged.models) == 2 else ", mean over pairs."
        )
        figures.append(_field(merged, "cosine", plot, text))
    rows = []
    if merged.whole["cosines"]:
        pairs = [(a, b) for i, a in enumerate(merged.models) for b in merged.models[i + 1 :]]
        rows = [
            {"first": a, "second": b, "cosine": c}
            for (a, b), c in zip(pairs, merged.whole["cosines"], strict=True)
        ]
    values = {"figures": figures, "pairs": rows, "deltas": merged.deltas, "first": first}
    return Section("models", "How the models lie", "merge_models.j2", values)


def _result(merged: Merged) -> Section | None:
    if not any(row["shares"] for row in merged.layers):
        return None
    skip = len(merged.inputs) - len(merged.models)
    rows = [row | {"shares": row["shares"][skip:] if row["shares"] else None} for row in merged.layers]
    shares = [row["shares"] for row in rows]
    kind = "nearest coefficient" if merged.elementwise else "coefficient"
    figures = [
        Figure(
            name="shares", height=320, numbers=_numbers(rows, "layer", merged.models, shares),
            caption=f"The {kind} of each model in the result, mean over the weights of a layer.",
            plot=_lines(merged, "shares", merged.models, kind, rows),
        )
    ]  # fmt: skip
    if len(merged.models) == 2 and any(cell["t"] is not None for cell in merged.cells):
        sums = [row["t"] for row in (*merged.layers, *merged.kinds) if row["t"] is not None]
        reach = min(0.5, max(0.05, *(abs(value - 0.5) for value in sums)))  # one tiny tensor sets no scale
        plot = merge_figures.field(
            _ranked(merged), "t", scale=merge_figures.TOWARDS, low=0.5 - reach, high=0.5 + reach
        )
        text = f"Effective t by layer and kind: 0 is {merged.models[0]}, 1 is {merged.models[1]}."
        figures.append(_field(merged, "t", plot, text))
    values = {"figures": figures, "elementwise": merged.elementwise, "deltas": merged.deltas}
    return Section("result", "Where the result lies", "merge_result.j2", values)


def _used(merged: Merged) -> Section | None:
    texts = {
        "kept": "Share of each task vector that is used, mean over models.",
        "sign_conflicts": "Share of weights that two models change in opposite directions"
        + (", among the changes that are used." if merged.whole["kept_each"] else "."),
        "explained": "Share of the squared change that a mixture of whole tensors explains.",
    }
    figures = []
    for column, text in texts.items():
        known = [cell[column] for cell in merged.cells if cell[column] is not None]
        if known:
            high = max(*known, 0.01) if column == "sign_conflicts" else 1.0
            plot = merge_figures.field(
                _ranked(merged), column, scale=merge_figures.AMOUNT, low=0, high=high, form=".1%"
            )
            figures.append(_field(merged, column, plot, text))
    if not figures:
        return None
    return Section("used", "What the method used", "merge_used.j2", {"figures": figures})


def _by(merged: Merged) -> Section:
    tables = [
        {"title": title, "rows": rows, "column": column}
        for title, column, rows in (("By layer", "layer", merged.layers), ("By kind", "kind", merged.kinds))
    ]
    shown = [c for c in ("t", "cosine", "sign_conflicts", "kept", "explained", "lerp", "averaged")
             if any(row[c] for row in merged.layers)]  # fmt: skip
    return Section("sums", "By layer and by kind", "merge_sums.j2", {"tables": tables, "shown": shown})


def _tensors(merged: Merged) -> Section:
    rows = merged.tensors
    if len(rows) > _ROWS:
        rows = sorted(rows, key=lambda row: -row["elements"])[:_ROWS]
    shown = [
        c for c in ("t", "cosine", "sign_conflicts", "explained", "sampled") if any(row[c] for row in rows)
    ]
    values = {
        "rows": [row | {"notes": _notes(row)} for row in rows], "shown": shown, "left": len(merged.tensors) - len(rows),
        "kept": any(row["kept"] for row in rows), "models": merged.models,
    }  # fmt: skip
    return Section("tensors", "Every tensor", "merge_tensors.j2", values)


def _made(merged: Merged) -> Section:
    sampled = any(row["sampled"] for row in merged.tensors)
    values = merged.record | {
        "files": merged.files, "deltas": merged.deltas, "first": merged.inputs[0], "sampled": sampled,
        "elementwise": merged.elementwise,
    }  # fmt: skip
    return Section("made", "How this was made", "merge_made.j2", values)


def _notes(row: Mapping[str, Any]) -> str:
    return ", ".join(note for note, on in (("lerp", row["lerp"]), ("plain mean", row["averaged"])) if on)


def _lines(
    merged: Merged, column: str, names: Sequence[str], y: str, rows: Sequence[Row] | None = None
) -> Plot:
    rows = merged.layers if rows is None else rows
    colours = merged.colours[-len(names) :]
    if len(names) > _LINES:
        rows = [row | {column: _three(row[column])} for row in rows]
        names, colours = ("least", "mean", "greatest"), ("var(--quiet)", "var(--member-1)", "var(--quiet)")
    return merge_figures.lines(rows, column, names, colours, y)


def _three(values: Sequence[float] | None) -> list[float] | None:
    return [min(values), sum(values) / len(values), max(values)] if values else None


def _numbers(
    rows: Sequence[Row], key: str, names: Sequence[str], values: Sequence[Sequence[float] | None]
) -> pl.DataFrame:
    table: dict[str, list[Any]] = {key: [merge_figures.place(row[key]) for row in rows]}
    for index, name in enumerate(names):
        table[name] = [None if value is None else value[index] for value in values]
    return pl.DataFrame(table, strict=False)


def _ranked(merged: Merged) -> list[Row]:
    """Return the cells with the place of their kind, as the table of kinds has it."""
    order = {row["kind"]: place for place, row in enumerate(merged.kinds)}
    return [cell | {"rank": order[cell["kind"]]} for cell in merged.cells]


def _field(merged: Merged, column: str, plot: Plot, text: str) -> Figure:
    known = [cell for cell in merged.cells if cell[column] is not None]
    kinds, layers = {cell["kind"] for cell in known}, {cell["layer"] for cell in known}
    numbers = pl.DataFrame({
        "layer": [merge_figures.place(cell["layer"]) for cell in known],
        "kind": [cell["kind"] for cell in known], column: [cell[column] for cell in known],
    }, schema_overrides={column: pl.Float64})  # fmt: skip
    return Figure(
        name=column.replace("_", "-"), plot=plot, caption=text, numbers=numbers,
        height=110 + 30 * max(4, len(kinds)), min_width=min(170 + 22 * len(layers), 1100) if len(layers) > 12 else 0,
    )  # fmt: skip


def _cosine_scale(merged: Merged) -> dict[str, Any]:
    """Task vectors may point anywhere: white is 0. Weights of relatives are nearly parallel: white is the least."""
    known = [cell["cosine"] for cell in merged.cells if cell["cosine"] is not None]
    if merged.deltas or min(known) < 0:
        most = max(map(abs, known)) or 1.0
        return {"scale": merge_figures.SIGNED, "low": -most, "high": most}
    return {"scale": merge_figures.AMOUNT, "low": min(*known, 0.99), "high": 1.0, "form": ".3f"}


def _range(merged: Merged, column: str) -> str:
    """Say between which layers a value varies, where it does."""
    known = [
        (row[column], row["layer"])
        for row in merged.layers
        if row[column] is not None and row["layer"] is not None
    ]
    if len(known) < 2 or max(known)[0] - min(known)[0] < 0.005:
        return ""
    (low, first), (high, last) = min(known), max(known)
    return f", from {formats.decimal(low)} in layer {first} to {formats.decimal(high)} in layer {last}"


def _listed(names: Sequence[str]) -> str:
    if len(names) > 12:
        return f"{len(names)} models"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
