"""Records (rows of JSON Lines, of Parquet, of a Hub data set) made into documents."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from heredity.corpora.documents import CorpusSpec
from heredity.errors import CorpusError

Record = tuple[str, Mapping[str, Any]]  # where it is, as file:line, and its fields


def parse_json_lines(text: str, file: str) -> Iterator[Record]:
    """Yield the objects of a JSON Lines text, each with its place.

    Raises:
        CorpusError: a line that is not a JSON object, named by file and line.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise CorpusError(
                f"{where}: not JSON ({error})", "every line must hold one JSON object"
            ) from None
        if not isinstance(record, dict):
            raise CorpusError(f"{where}: not a JSON object", "every line must hold one JSON object")
        yield where, record


def to_texts(records: Iterable[Record], spec: CorpusSpec) -> Iterator[tuple[str, str]]:
    """Make each record a document, or each group of records that agree in the fields `spec.group`.

    A group's texts are joined line by line in the order of the records, and it is named by its values:
    `Genesis/1`. A single record is named by its place.

    Raises:
        CorpusError: a record without a field, or whose text is not a string.
    """
    groups: dict[str, list[str]] = {}
    for where, record in records:
        text = _field(record, spec.text, where)
        if not isinstance(text, str):
            raise CorpusError(
                f"{where}: field {spec.text!r} is not text", "set 'text' to the field that holds the text"
            )
        if not spec.group:
            yield where, text
            continue
        name = "/".join(str(_field(record, field, where)) for field in spec.group)
        groups.setdefault(name, []).append(text)
    for name, texts in groups.items():
        yield name, "\n".join(texts) + "\n"


def _field(record: Mapping[str, Any], field: str, where: str) -> Any:
    if field not in record:
        known = ", ".join(sorted(record)[:8])
        raise CorpusError(
            f"{where}: no field {field!r}", f"its fields are {known}; set 'text' and 'group' to them"
        )
    return record[field]
