"""Sentences on what became of each latent where a child's SAE began at its parent's."""

from typing import Any

import polars as pl

from heredity.studies.features.wording import decimals, number

_OF = (
    "kept",
    "kept_null",
    "kept_control",
    "r_median",
    "r_median_null",
    "cosine_median",
    "cosine_median_null",
)


def sentences(table: pl.DataFrame) -> list[str]:
    """Say how much is kept in place, beside strangers and the parent's SAE trained on.

    Args:
        table: `identity`; may be empty.
    """
    if not table.height:
        return []
    edges = table.group_by("parent", "child", "through", "direct", maintain_order=True).agg(
        pl.col(*_OF).mean()
    )
    direct, distant = edges.filter("direct"), edges.filter(~pl.col("direct"))
    tau, said = table["tau"][0], []
    if direct.height:
        each = ", ".join(
            f"{row['parent']} → {row['child']} {row['kept']:.1%} ({row['kept_control']:.1%})"
            for row in direct.iter_rows(named=True)
        )
        said.append(
            f"A child's SAEs begin at its parent's. Kept at their own index (r ≥ {tau:.2f}) are {each}; in brackets "
            "what the parent's own SAE keeps when it is trained on with the parent's activations. Of strangers that "
            f"fire as often at most {_most(direct, 'kept_null'):.1%} would be."
        )
    if distant.height:
        each = ", ".join(
            f"{row['parent']} → {row['child']} {row['kept']:.1%} ({_way(row)})"
            for row in distant.iter_rows(named=True)
        )
        said.append(
            f"Where a child's SAEs began at those of another member, kept at their own index are {each}; of strangers "
            f"at most {_most(distant, 'kept_null'):.1%} would be."
        )
    said.append(
        f"At one's own index the median r is {decimals(edges['r_median'])} and the median decoder cosine "
        f"{decimals(edges['cosine_median'])}, of strangers {decimals(edges['r_median_null'])} and "
        f"{decimals(edges['cosine_median_null'])}: how far latents moved from one start, not what was inherited."
    )
    return said


def _way(row: dict[str, Any]) -> str:
    """Say how the SAEs of an edge are related where one did not begin at the other."""
    return "by way of others" if row["through"] == row["parent"] else f"both from {row['through']}"


def _most(table: pl.DataFrame, column: str) -> float:
    return number(table[column].max())
