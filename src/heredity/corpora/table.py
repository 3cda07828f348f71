"""The table of corpora: what each domain and split holds, and how many copies were dropped."""

from collections.abc import Mapping

import polars as pl

from heredity.corpora.split import NAMES, Splits
from heredity.corpora.tokens import TokenStream


def corpora_table(splits: Splits, streams: Mapping[str, TokenStream]) -> pl.DataFrame:
    """Count documents, UTF-8 bytes, tokens and dropped copies of every domain and split.

    Args:
        splits: the documents.
        streams: the token stream of each split by name; its tokens are counted (0 without a stream).

    Returns:
        Columns domain, split, documents, bytes, tokens, dropped_exact, dropped_near. A dropped copy counts in
        the split that has its twin.
    """
    rows = []
    for domain in dict.fromkeys(d.domain for name in NAMES for d in splits.of(name)):
        for name in NAMES:
            documents = [d for d in splits.of(name) if d.domain == domain]
            here = splits.dropped.filter((pl.col("domain") == domain) & (pl.col("split") == name))
            stream = streams.get(name)
            tokens = stream.of(domain).n_tokens if stream is not None and domain in stream.domains else 0
            exact, near = ((here["kind"] == kind).sum() for kind in ("exact", "near"))
            rows.append(
                (domain, name, len(documents), sum(d.size_bytes for d in documents), tokens, exact, near)
            )
    columns = ("documents", "bytes", "tokens", "dropped_exact", "dropped_near")
    return pl.DataFrame(
        rows,
        schema={"domain": pl.String, "split": pl.String} | dict.fromkeys(columns, pl.Int64),
        orient="row",
    )
