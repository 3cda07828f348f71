"""What a merge did, as rows and as tables: for every tensor, and summed up by layer, by kind, by both.

Rows are plain dictionaries, so that a merge that prints a few of them loads no table library.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from heredity.anatomy import KINDS, kind_of, layer_of

if TYPE_CHECKING:
    import polars as pl

Row = dict[str, Any]

_LISTS = (
    "coefficients", "effective", "norms", "distances", "cosine_range", "cosines", "kept", "rescaled",
    "weights", "shares", "moved", "kept_each",
)  # fmt: skip
_TENSOR = (
    "tensor", "layer", "kind", "elements", "coefficients", "effective", "explained", "t", "lerp", "norms",
    "distances", "cosine", "cosine_range", "cosines", "sign_conflicts", "kept", "rescaled", "weights",
    "averaged", "sampled",
)  # fmt: skip
_MEANS = ("t", "cosine", "sign_conflicts", "explained")


def tensor_rows(lock: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> list[Row]:
    """Return a row for every merged tensor: what the lock holds of it; what a method does not know is None.

    Fields: tensor, layer (None outside the layers), kind, elements (1 where `sizes` are not given);
    coefficients of the inputs, base first, or the nearest (effective) ones and the share of the change that they
    explain; t, between two models (0: the first); lerp; norms of the inputs; distances from the first input;
    cosine of pairs of models (mean, range, and each), of task vectors where there is a base, else of weights;
    sign_conflicts, share of elements; kept, share of each model's elements; rescaled, the factor afterwards;
    weights that the method found; averaged, for want of statistics; sampled, share of the tensor that
    estimates are from.
    """
    known = sizes or {}
    return [
        dict.fromkeys(_TENSOR)
        | {"tensor": name, "layer": layer_of(name), "kind": kind_of(name), "elements": known.get(name, 1)}
        | {key: value for key, value in facts.items() if key in _TENSOR}
        for name, facts in lock["tensors"].items()
    ]


def grouped_rows(tensors: Sequence[Row], by: Sequence[str] = ()) -> list[Row]:
    """Sum up the rows of tensors.

    Cosines of pairs and `moved` (the distance of each model from the first input, over that one's norm) are
    those of all tensors of a group taken as one vector. All else are means, weighted by elements: `shares`
    of the inputs in the result, kept (over models, and of each), lerp, averaged, t, sign_conflicts, explained.

    Args:
        tensors: from `tensor_rows`.
        by: "layer", "kind", both or none; layers in order, then what is outside of them.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in tensors:
        groups.setdefault(tuple(row[column] for column in by), []).append(row)
    found = [dict(zip(by, key, strict=True)) | _summed(rows) for key, rows in groups.items()]
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(
        found,
        key=lambda row: (
            math.inf if row.get("layer") is None else row["layer"],
            order.get(row.get("kind", ""), 0),
        ),
    )


def as_table(rows: Sequence[Row]) -> "pl.DataFrame":
    """Return rows of tensors or of groups as a table; a field that no row has is a column of nulls."""
    import polars as pl

    kinds = {
        "tensor": pl.String, "kind": pl.String, "layer": pl.Int64, "elements": pl.Int64, "tensors": pl.Int64,
        "lerp": pl.Boolean if rows and "tensor" in rows[0] else pl.Float64,
        "averaged": pl.Boolean if rows and "tensor" in rows[0] else pl.Float64,
    } | dict.fromkeys(_LISTS, pl.List(pl.Float64))  # fmt: skip
    if rows and "tensors" in rows[0]:
        kinds["kept"] = pl.Float64
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return pl.DataFrame(
        {column: [row.get(column) for row in rows] for column in columns},
        schema={column: kinds.get(column, pl.Float64) for column in columns},
    )


def tensors_table(lock: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> "pl.DataFrame":
    """Return `tensor_rows` as a table."""
    return as_table(tensor_rows(lock, sizes))


def layers_table(lock: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> "pl.DataFrame":
    """Return `grouped_rows` by layer as a table."""
    return as_table(grouped_rows(tensor_rows(lock, sizes), ("layer",)))


def _summed(rows: Sequence[Row]) -> Row:
    counts = [row["elements"] for row in rows]
    found: Row = {"tensors": len(rows), "elements": sum(counts), "moved": None, "cosines": None}
    found |= {name: _mean([row[name] for row in rows], counts) for name in _MEANS}
    found["lerp"] = _mean([float(bool(row["lerp"])) for row in rows], counts)
    found["averaged"] = _mean([float(bool(row["averaged"])) for row in rows], counts)
    found["shares"] = _means([row["coefficients"] or row["effective"] for row in rows], counts)
    found["kept_each"] = _means([row["kept"] for row in rows], counts)
    found["kept"] = sum(found["kept_each"]) / len(found["kept_each"]) if found["kept_each"] else None
    known = [row for row in rows if row["norms"] and row["distances"]]
    if known:
        whole = math.sqrt(sum(row["norms"][0] ** 2 for row in known))
        moved = _lengths(row["distances"] for row in known)
        found["moved"] = [value / whole if whole else None for value in moved]
    if (cosines := _cosines(known)) is not None:
        found["cosines"] = cosines if len(cosines) > 1 else None
        found["cosine"] = _mean(cosines, [1] * len(cosines))
    return found


def _cosines(rows: Sequence[Mapping[str, Any]]) -> list[float | None] | None:
    """Return the cosine of each pair over all tensors, or None where not every pair's is told."""
    each = [_vectors(row) for row in rows]
    if not rows or any(lengths is None for lengths in each):
        return None
    lengths = [lengths for lengths in each if lengths is not None]
    count = len(lengths[0])
    if any(len(one) != count for one in lengths):
        return None
    total = _lengths(lengths)
    found: list[float | None] = []
    for place, (i, j) in enumerate(combinations(range(count), 2)):
        products = [
            ((row["cosines"] or [row["cosine"]])[place] or 0.0) * one[i] * one[j]
            for row, one in zip(rows, lengths, strict=True)
        ]
        found.append(sum(products) / (total[i] * total[j]) if total[i] * total[j] else None)
    return found


def _vectors(row: Mapping[str, Any]) -> list[float] | None:
    """Return the lengths of the vectors whose cosines a row has: of task vectors, or of weights."""
    pairs = len(row["cosines"] or ([] if row["cosine_range"] else [row["cosine"]]))
    for lengths in (row["distances"], row["norms"]):
        if lengths and pairs == len(lengths) * (len(lengths) - 1) // 2:
            return list(lengths)
    return None


def _lengths(rows: Iterable[Sequence[float]]) -> list[float]:
    return [math.sqrt(sum(value**2 for value in column)) for column in zip(*rows, strict=True)]


def _mean(values: Sequence[float | None], counts: Sequence[int]) -> float | None:
    known = [(value, count) for value, count in zip(values, counts, strict=True) if value is not None]
    total = sum(count for _, count in known)
    return sum(value * count for value, count in known) / total if total else None


def _means(rows: Sequence[Sequence[float] | None], counts: Sequence[int]) -> list[float] | None:
    """Return the means of lists of one length; None where they differ or there are none."""
    known = [(row, count) for row, count in zip(rows, counts, strict=True) if row]
    if not known or len({len(row) for row, _ in known}) > 1:
        return None
    weights = [count for _, count in known]
    columns = zip(*(row for row, _ in known), strict=True)
    return [float(_mean(column, weights) or 0.0) for column in columns]
