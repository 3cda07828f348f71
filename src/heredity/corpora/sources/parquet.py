"""`parquet:GLOB`: Parquet files, one document per row or per group of rows."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from heredity.corpora.documents import CorpusSpec
from heredity.corpora.files import find
from heredity.corpora.records import Record, to_texts
from heredity.errors import CorpusError


def read(
    argument: str, spec: CorpusSpec, *, archives: Mapping[str, str], root: Path
) -> Iterator[tuple[str, str]]:
    """Yield the rows' texts, named `file:row` or by their group."""
    yield from to_texts(_records(argument, spec, root), spec)


def rows(path: Path, name: str, columns: tuple[str, ...]) -> Iterator[Record]:
    """Yield the rows of one file, counted from 1, reading only the columns asked for.

    Raises:
        CorpusError: not a Parquet file, or a column is missing.
    """
    try:
        have = pl.read_parquet_schema(path)
        for column in columns:
            if column not in have:
                known = ", ".join(sorted(have)[:8])
                raise CorpusError(
                    f"{path}: no column {column!r}",
                    f"its columns are {known}; set 'text' and 'group' to them",
                )
        table = pl.read_parquet(path, columns=list(columns))
    except pl.exceptions.PolarsError as error:
        raise CorpusError(
            f"{path}: cannot be read as Parquet ({error})", "check the file, or exclude it"
        ) from None
    for number, row in enumerate(table.iter_rows(named=True), start=1):
        yield f"{name}:{number}", row


def _records(argument: str, spec: CorpusSpec, root: Path) -> Iterator[Record]:
    for name, path in find(argument, root, spec.excluded):
        yield from rows(path, name, (spec.text, *spec.group))
