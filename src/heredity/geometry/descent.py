"""The tables of who descends from whom: nearest bases, and the DAG of fine-tunes and merges."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import polars as pl

from heredity.geometry.ancestry import Descent, ancestry
from heredity.geometry.nearest import Nearest, nearest
from heredity.gram import Gram


def nearest_bases(gram: Gram, bases: Sequence[str]) -> pl.DataFrame:
    """Find the nearest of some bases for every other model, by the raw weights of matrices.

    Columns: member, base, correlation, distance, null_distance, z, p_value, related, margin.
    """
    names = _names(gram)
    # Vectors (norms, biases) are alike in all models of an architecture; their kinship would say nothing.
    tensors = [tensor for tensor in gram.tensors.values() if len(tensor.shape) > 1] or [
        *gram.tensors.values()
    ]
    raw = np.array([tensor.raw() for tensor in tensors])
    sums = np.array([tensor.raw_sums() for tensor in tensors])
    sizes = np.array([tensor.size for tensor in tensors], dtype=np.int64)
    rows = []
    for member in [name for name in names if name not in bases]:
        found = nearest(raw, sums, sizes, names[member], [names[base] for base in bases])
        base = next(base for base in bases if names[base] == found.base)
        margin = found.margin if np.isfinite(found.margin) else None
        rows.append({"member": member} | msgspec.structs.asdict(found) | {"base": base, "margin": margin})
    kinds: dict[str, type[pl.DataType]] = {"member": pl.String, "base": pl.String, "related": pl.Boolean}
    columns = ["member", *Nearest.__struct_fields__]
    return pl.DataFrame(rows, schema={name: kinds.get(name, pl.Float64) for name in columns})


def descent(gram: Gram, families: Mapping[str | None, Sequence[str]]) -> pl.DataFrame:
    """Name the parents of every model.

    Args:
        gram: of all models.
        families: base → its members; None → members whose base is not known, who get edges without direction.

    Columns: member, kind, parents, coefficients, before, precision, residual, uniform, score, null.
    """
    rows = []
    for base, members in families.items():
        models = list(members) if base is None else [base, *members]
        if not models:
            continue
        seen = gram.rebase(models[0]).select(models[1:])
        products = np.array([tensor.products for tensor in seen.tensors.values()])
        dtypes = [gram.dtypes.get(name, "F32") for name in models]
        rows += [_row(entry, models) for entry in ancestry(products, dtypes, base_known=base is not None)]
    return pl.DataFrame(rows, schema=_COLUMNS)


def _row(entry: Descent, models: Sequence[str]) -> dict[str, object]:
    row: dict[str, object] = {"member": models[entry.model], "kind": entry.kind}
    row["parents"] = [models[parent] for parent in entry.parents]
    for name in ("coefficients", "before", "precision"):
        row[name] = list(getattr(entry, name))
    for name in ("residual", "score", "null"):
        value = getattr(entry, name)
        row[name] = float(value) if np.isfinite(value) else None
    return row | {"uniform": entry.uniform}


def _names(gram: Gram) -> dict[str, int]:
    """Map every model to its row in a tensor's products, the reference to row 0."""
    return {name: index + 1 for index, name in enumerate(gram.members)} | {gram.reference: 0}


_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "member": pl.String, "kind": pl.String, "parents": pl.List(pl.String),
    "coefficients": pl.List(pl.Float64), "before": pl.List(pl.Float64), "precision": pl.List(pl.Float64),
    "residual": pl.Float64, "uniform": pl.Boolean, "score": pl.Float64, "null": pl.Float64,
}  # fmt: skip
