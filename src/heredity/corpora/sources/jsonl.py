"""`jsonl:GLOB`: JSON Lines files, one document per record or per group of records."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from heredity.corpora.documents import CorpusSpec
from heredity.corpora.files import decode, find
from heredity.corpora.records import Record, parse_json_lines, to_texts


def read(
    argument: str, spec: CorpusSpec, *, archives: Mapping[str, str], root: Path
) -> Iterator[tuple[str, str]]:
    """Yield the records' texts, named `file:line` or by their group."""
    yield from to_texts(_records(argument, spec, root), spec)


def _records(argument: str, spec: CorpusSpec, root: Path) -> Iterator[Record]:
    for name, path in find(argument, root, spec.excluded):
        yield from parse_json_lines(decode(path.read_bytes(), str(path)), name)
