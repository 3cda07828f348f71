"""`text:GLOB`: text files, one document each."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from heredity.corpora.documents import CorpusSpec
from heredity.corpora.files import decode, find


def read(
    argument: str, spec: CorpusSpec, *, archives: Mapping[str, str], root: Path
) -> Iterator[tuple[str, str]]:
    """Yield each file under its path from the glob's fixed folder on; a folder stands for all files in it."""
    for name, path in find(argument, root, spec.excluded):
        yield name, decode(path.read_bytes(), str(path))
