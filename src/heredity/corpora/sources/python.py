"""`python:stdlib`: the running interpreter's own library, without its tests: real code on every machine."""

import sysconfig
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

from heredity.corpora.documents import CorpusSpec
from heredity.corpora.globs import matches_any
from heredity.errors import ConfigError

# Installed packages are not the library; tests are not typical code; _sysconfigdata is made on the machine
_NOT_LIBRARY = (
    "**/test/**", "**/tests/**", "**/idle_test/**", "site-packages/**", "dist-packages/**", "_sysconfigdata*",
)  # fmt: skip


def read(
    argument: str, spec: CorpusSpec, *, archives: Mapping[str, str], root: Path
) -> Iterator[tuple[str, str]]:
    """Yield the library's files by their path within it, without those that Python could not decode."""
    if argument != "stdlib":
        raise ConfigError(f"unknown corpus source 'python:{argument}'", "write python:stdlib")
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library).as_posix()
        if matches_any(name, (*_NOT_LIBRARY, *spec.excluded)) or path.is_symlink():
            continue
        try:
            with tokenize.open(path) as file:
                text = file.read()
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        yield name, text
