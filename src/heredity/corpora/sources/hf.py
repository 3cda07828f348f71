"""`hf:NAME`: a data set of the Hub through `datasets` (an extra), or a local folder in the Hub's layout."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from heredity.corpora.documents import CorpusSpec
from heredity.corpora.files import decode
from heredity.corpora.globs import matches_any
from heredity.corpora.records import Record, parse_json_lines, to_texts
from heredity.corpora.sources import parquet
from heredity.errors import CorpusError, ExtraMissingError

_PARTITIONS = ("train", "validation", "valid", "dev", "test", "eval")


def read(
    argument: str, spec: CorpusSpec, *, archives: Mapping[str, str], root: Path
) -> Iterator[tuple[str, str]]:
    """Yield the rows' texts, named by their place or by their group.

    A Hub data set is streamed and stops at `max_bytes` in its own order: it may be too large to read whole.
    """
    folder = root / Path(argument).expanduser()
    if folder.is_dir():
        yield from to_texts(_local_records(folder, spec), spec)
        return
    if argument.startswith((".", "/", "~")):
        raise CorpusError(f"{folder}: no such folder", "check the path, or name a data set of the Hub")
    size = 0
    for name, text in to_texts(_hub_records(argument, spec), spec):
        yield name, text
        size += len(text.encode())
        if spec.max_bytes is not None and size >= spec.max_bytes:
            return


def _local_records(folder: Path, spec: CorpusSpec) -> Iterator[Record]:
    columns = (spec.text, *spec.group)
    for path in _data_files(folder, spec):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".parquet":
            yield from parquet.rows(path, name, columns)
        else:
            yield from parse_json_lines(decode(path.read_bytes(), str(path)), name)


def _data_files(folder: Path, spec: CorpusSpec) -> list[Path]:
    """Return the files of one partition: those named after it, or all when no file is named after any."""
    base = folder / spec.folder if spec.folder else folder
    if not base.resolve().is_relative_to(folder.resolve()):
        raise CorpusError(f"{base}: lies outside of {folder}", "set 'folder' to a folder inside the data set")
    files = [p for p in sorted(base.rglob("*")) if p.suffix in (".parquet", ".jsonl") and p.is_file()]
    files = [p for p in files if not matches_any(p.relative_to(folder).as_posix(), spec.excluded)]
    if spec.subset:
        files = [p for p in files if spec.subset in p.relative_to(folder).parts[:-1]]
    named = [(p, _partition(p.relative_to(base).as_posix())) for p in files]
    if any(partition for _, partition in named):
        files = [p for p, partition in named if partition == spec.partition]
    if not files:
        raise CorpusError(
            f"{base}: no .parquet or .jsonl file of partition {spec.partition!r}",
            "set 'partition', 'subset' or 'folder'",
        )
    return files


def _partition(path: str) -> str | None:
    words = re.split(r"[^a-z0-9]+", path.lower())
    return next((p for p in _PARTITIONS if p in words), None)


def _hub_records(name: str, spec: CorpusSpec) -> Iterator[Record]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise ExtraMissingError(f"hf:{name}", "datasets") from None
    try:
        rows = datasets.load_dataset(
            name,
            spec.subset,
            split=spec.partition,
            data_dir=spec.folder,
            revision=spec.revision,
            streaming=True,
        )
        for number, row in enumerate(rows, start=1):
            yield f"{spec.partition}:{number}", row
    except (OSError, ValueError) as error:  # not found, offline, gated, no such configuration
        first = str(error).partition("\n")[0]
        raise CorpusError(
            f"hf:{name}: cannot be read ({first})", "check the name and the network, or give a local folder"
        ) from None
