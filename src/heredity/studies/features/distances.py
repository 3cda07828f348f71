"""The members as a table: parents, size, and how far each has moved in weight space, from the Gram matrix."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from heredity.family import Family
from heredity.gram import Gram


def members_table(
    family: Family, root: str, domains: Mapping[str, tuple[str, ...]], *, allow_partial: bool = False
) -> pl.DataFrame:
    """Give each member's parents, parameters, and Euclidean distance from the root and from each parent.

    Args:
        family: whose weights are read once.
        root: the member that distances are relative to.
        domains: what each member was trained on, for the page.
        allow_partial: measure what all members share where they differ in tensors.

    Raises:
        MismatchError: members differ in tensors, or share none at all.
    """
    gram = Gram.compute(family, reference=root, include_head=True, allow_partial=allow_partial)
    products = gram.total()["all"].products
    order = [gram.reference, *gram.members]
    rows = []
    for member in family.members:
        i = order.index(member.name)
        # Row 0 is the reference's own weights; its task vector is zero.
        to_base = (float(products[i][i]) if i else 0.0) ** 0.5
        rows.append({
            "member": member.name, "relation": member.relation, "parents": list(member.parents),
            "domains": list(domains.get(member.name, ())), "path": member.path,
            "parameters": sum(t.size for t in family.checkpoint(member.name).tensors.values()),
            "distance_to_base": to_base, "relative_to_base": to_base / float(products[0][0]) ** 0.5,
            "parent_distances": [_distance(products, i, order.index(p)) for p in member.parents],
        })  # fmt: skip
    schema = {
        "parents": pl.List(pl.String),
        "domains": pl.List(pl.String),
        "parent_distances": pl.List(pl.Float64),
    }
    return pl.DataFrame(rows, schema_overrides=schema)


def _distance(products: Any, i: int, j: int) -> float:
    ii, jj, ij = (float(products[a][b]) if a and b else 0.0 for a, b in ((i, i), (j, j), (i, j)))
    return max(0.0, ii + jj - 2 * ij) ** 0.5
