"""Tables of labelled texts: `{"text", "text_pair"?, "label"}` as JSON Lines, Parquet, or a data set of the Hub.

    task = read_task("data/snli")          # snli.train.jsonl, and snli.test.jsonl beside it
    task.train.texts[0], task.labels[task.train.labels[0]]

What has no test or validation part gets one out of its training rows, by a keyed draw, and says so in `notes`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from heredity.corpora.files import decode
from heredity.corpora.records import Record, parse_json_lines
from heredity.errors import ConfigError, CorpusError, ExtraMissingError
from heredity.seeds import generator

_PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "eval"),
}
_PART_WORDS = {word for words in _PARTS.values() for word in words}
_SUFFIXES = (".jsonl", ".parquet")


class Fields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names of the columns.

    Attributes:
        text: the text.
        pair: a second text that the label is about, if there is such a column.
        label: a string or a whole number.
    """

    text: str = "text"
    pair: str = "text_pair"
    label: str = "label"


class Examples(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Rows of one part of a task.

    Attributes:
        texts: one for each row.
        pairs: second texts, or None.
        labels: index into the task's labels; empty when the texts are read without them.
        places: `file:line` of each row.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: Int64[ndarray, " n"]
    places: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Int64[ndarray, " m"]) -> "Examples":
        """Return some rows, in the order given."""
        chosen = rows.tolist()
        return Examples(
            texts=tuple(self.texts[i] for i in chosen),
            pairs=None if self.pairs is None else tuple(self.pairs[i] for i in chosen),
            labels=self.labels[rows] if len(self.labels) else self.labels,
            places=tuple(self.places[i] for i in chosen),
        )


class LabelledTask(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A task: three parts with one set of labels.

    Attributes:
        name: of the data set.
        labels: names of the classes, in order; empty for texts without labels.
        train: rows to fit on.
        validation: rows to choose on: when to stop, how much to regularise.
        test: rows to report on.
        notes: what was done to the data that a reader of the result must know.
    """

    name: str
    labels: tuple[str, ...]
    train: Examples
    validation: Examples
    test: Examples
    notes: tuple[str, ...] = ()

    def sample(
        self,
        *,
        train: int | None = None,
        validation: int | None = None,
        test: int | None = None,
        seed: int = 0,
    ) -> "LabelledTask":
        """Return a task of at most so many rows of each part, by a keyed draw; the order stays."""
        parts: dict[str, Examples] = {}
        for part, limit in (("train", train), ("validation", validation), ("test", test)):
            rows: Examples = getattr(self, part)
            if limit is not None and limit < len(rows):
                drawn = generator(seed, "sample", part, self.name).permutation(len(rows))[: max(1, limit)]
                rows = rows.take(np.sort(drawn))
            parts[part] = rows
        return msgspec.structs.replace(self, **parts)

    @property
    def digest(self) -> str:
        """sha256 of all texts and labels, in order."""
        whole = hashlib.sha256("\x1f".join(self.labels).encode())
        for part in (self.train, self.validation, self.test):
            for texts in (part.texts, part.pairs or ()):
                for text in texts:
                    whole.update(len(text).to_bytes(8, "little") + text.encode())
            whole.update(part.labels.tobytes() + b"\x1e")
        return whole.hexdigest()


def read_task(
    ref: str | Path,
    *,
    fields: Fields | None = None,
    labelled: bool = True,
    limit: int | None = None,
    validation: float = 0.1,
    seed: int = 0,
) -> LabelledTask:
    """Read a task.

    Args:
        ref: `PATH` of a file (`NAME.train.jsonl`), of files without their ending (`data/NAME`), of a folder with
            train and test files, or `hf:NAME` (`hf:NAME/SUBSET` for one of several) of the Hub.
        fields: names of the columns.
        labelled: read labels; without them texts alone are read.
        limit: so many training rows, drawn by the seed.
        validation: share of the training rows held out if there is no validation part; half of it is given up to
            the test part if there is none of that either.
        seed: of what is held out and of `limit`.

    Raises:
        CorpusError: no such data, a row without a text or a label, an empty part, a test label that no training
            row has.
        ConfigError: fewer than two classes, or a share outside (0, 0.5].
        ExtraMissingError: `hf:` needs the extra `datasets`.
    """
    fields = fields or Fields()
    if not 0 < validation <= 0.5:
        raise ConfigError(f"validation = {validation} is not in (0, 0.5]", "hold out a tenth: 0.1")
    name, records = _records(str(ref))
    if "train" not in records:
        raise CorpusError(f"{ref}: no training part", "its file is called train, or NAME.train.jsonl")
    raw = {part: _rows(rows, fields, labelled, f"{name}.{part}") for part, rows in records.items()}
    labels = _names(
        [label for part in ("train", "validation") for label in raw.get(part, _Raw()).labels], name
    )
    if labelled and len(labels) < 2:
        only = f" ({labels[0]!r})" if labels else ""
        raise ConfigError(f"{name}: one class only{only}", "a classifier needs two classes or more")
    parts = {part: _examples(rows, labels, f"{name}.{part}") for part, rows in raw.items()}
    notes: list[str] = []
    train = parts["train"]
    for part in ("test", "validation"):
        if part in parts:
            continue
        count = max(1, round(validation * len(parts["train"])))
        rng = generator(seed, "held out", part, name)
        order = rng.permutation(len(train))
        if len(train) - count < 2:
            raise CorpusError(f"{name}: {len(train)} rows are too few to hold some out", "add rows")
        parts[part], train = train.take(np.sort(order[:count])), train.take(np.sort(order[count:]))
        notes.append(f"no {part} part: {count} training rows were held out for it")
    if limit is not None and limit < len(train):
        chosen = generator(seed, "limit", name).permutation(len(train))[: max(1, limit)]
        train = train.take(np.sort(chosen))
        notes.append(f"{len(train)} training rows were drawn")
    if labelled and len(np.unique(train.labels)) < 2:
        raise ConfigError(f"{name}: the {len(train)} training rows have one class", "take more rows")
    if labelled:
        unseen = int(np.count_nonzero(np.bincount(train.labels, minlength=len(labels)) == 0))
        if unseen:
            notes.append(f"{unseen} of {len(labels)} classes do not occur in the training part")
        seen = np.bincount(parts["test"].labels, minlength=len(labels))
        absent = [label for label, count in zip(labels, seen, strict=True) if not count]
        if absent:
            notes.append(
                f"{len(absent)} of {len(labels)} classes do not occur in the test part, first {absent[0]!r}"
            )
    return LabelledTask(
        name=name,
        labels=labels,
        train=train,
        validation=parts["validation"],
        test=parts["test"],
        notes=tuple(notes),
    )


class _Raw(msgspec.Struct):
    texts: list[str] = []
    pairs: list[str] = []
    labels: list[str | int] = []
    places: list[str] = []


def _rows(records: Iterable[Record], fields: Fields, labelled: bool, what: str) -> _Raw:
    rows = _Raw()
    for place, record in records:
        text = record.get(fields.text)
        if not isinstance(text, str):
            have = ", ".join(sorted(map(str, record))[:8])
            raise CorpusError(f"{place}: no text in field {fields.text!r}", f"its fields are {have}")
        pair = record.get(fields.pair)
        if pair is not None and not isinstance(pair, str):
            raise CorpusError(f"{place}: field {fields.pair!r} is not text", "a pair is a second text")
        if (pair is not None) != bool(rows.pairs) and rows.texts:
            raise CorpusError(
                f"{place}: some rows have {fields.pair!r} and others do not", "give it to all or none"
            )
        if labelled:
            rows.labels.append(_label(record, fields, place))
        rows.texts.append(text)
        rows.places.append(place)
        if pair is not None:
            rows.pairs.append(pair)
    if not rows.texts:
        raise CorpusError(f"{what}: no rows", "the file is empty")
    return rows


def _label(record: Any, fields: Fields, place: str) -> str | int:
    label = record.get(fields.label)
    if isinstance(label, bool):
        label = str(label).lower()
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if label is None or (isinstance(label, int) and label < 0):  # the Hub's hidden labels are −1
        raise CorpusError(
            f"{place}: no label in field {fields.label!r}", "every row, of the test part too, needs one"
        )
    if not isinstance(label, str | int):
        raise CorpusError(f"{place}: label {label!r} is neither text nor a whole number", "name the classes")
    return label


def _names(labels: list[str | int], what: str) -> tuple[str, ...]:
    kinds = {type(label) for label in labels}
    if len(kinds) > 1:
        raise CorpusError(f"{what}: some labels are text and some are numbers", "use one kind")
    return tuple(str(label) for label in sorted(dict.fromkeys(labels)))


def _examples(rows: _Raw, labels: tuple[str, ...], what: str) -> Examples:
    index = {label: number for number, label in enumerate(labels)}
    for label, place in zip(rows.labels, rows.places, strict=False):
        if str(label) not in index:
            raise CorpusError(
                f"{place}: label {str(label)!r} is not among the training rows' of {what}", "check the split"
            )
    return Examples(
        texts=tuple(rows.texts), pairs=tuple(rows.pairs) or None, places=tuple(rows.places),
        labels=np.array([index[str(label)] for label in rows.labels], np.int64),
    )  # fmt: skip


def _records(ref: str) -> tuple[str, dict[str, Iterable[Record]]]:
    if ref.startswith("hf:"):
        return ref[3:].replace("/", "-"), _hub(ref[3:])
    path = Path(ref).expanduser()
    if path.is_dir():
        name, files = path.name, _tables(path.iterdir())
        sets = sorted({file.name.split(".")[0] for file in files if _part(file)} - _PART_WORDS)
        if len(sets) > 1 and not any(word.startswith(tuple(_PART_WORDS)) for word in sets):
            raise ConfigError(
                f"{ref}: holds {len(sets)} sets, first {sets[0]}", f"name one: {path / sets[0]}"
            )
    elif path.is_file() and path.name.split(".")[0] in _PART_WORDS:  # train.jsonl with test.jsonl beside it
        name = path.resolve().parent.name
        files = _tables(p for p in path.parent.iterdir() if p.name.split(".")[0] in _PART_WORDS)
    elif path.is_file() and not _part(path):
        name, files = path.stem, [path]
    else:
        name = path.name.split(".")[0] if path.is_file() else path.name
        files = _tables(path.parent.glob(f"{name}.*"))
    if not files:
        raise CorpusError(
            f"{ref}: no .jsonl or .parquet file", "give NAME.train.jsonl, its folder, or hf:NAME"
        )
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(_part(file) or "train", []).append(file)
    return name, {part: _file_records(paths) for part, paths in found.items()}


def _tables(files: Iterable[Path]) -> list[Path]:
    return sorted(file for file in files if file.suffix in _SUFFIXES and file.is_file())


def _part(path: Path) -> str | None:
    words = path.name.lower().replace("-", ".").replace("_", ".").split(".")[:-1]
    for part, names in _PARTS.items():
        if any(word in names for word in words[-2:]) or words[0] in names:
            return part
    return None


def _file_records(files: list[Path]) -> Iterator[Record]:
    for file in files:
        if file.suffix == ".jsonl":
            yield from parse_json_lines(decode(file.read_bytes(), str(file)), str(file))
            continue
        import polars as pl

        try:
            table = pl.read_parquet(file)
        except pl.exceptions.PolarsError as error:
            raise CorpusError(f"{file}: cannot be read as Parquet ({error})", "check the file") from None
        for number, row in enumerate(table.iter_rows(named=True), start=1):
            yield f"{file}:{number}", row


def _hub(name: str) -> dict[str, Iterable[Record]]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise ExtraMissingError(f"hf:{name}", "datasets") from None
    words = name.split("/")
    repository, subset = ("/".join(words[:2]), words[2]) if len(words) > 2 else (name, None)
    try:
        parts = datasets.load_dataset(repository, subset)
    except (OSError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise CorpusError(f"hf:{name}: cannot be read ({first})", "check the name and the network") from None
    found: dict[str, Iterable[Record]] = {}
    for part, names in _PARTS.items():
        here = next((own for own in names if own in parts), None)
        if here is not None:
            found[part] = ((f"hf:{name}:{here}:{n}", row) for n, row in enumerate(parts[here], start=1))
    return found
