"""Files that a glob names, and bytes that become text."""

from pathlib import Path

from heredity.corpora.globs import fixed_folder, matches, matches_any
from heredity.errors import CorpusError


def find(pattern: str, root: Path, excluded: tuple[str, ...]) -> list[tuple[str, Path]]:
    """Return the files that match a glob, each with its name from the glob's fixed folder on, sorted by name.

    Raises:
        CorpusError: nothing matches.
    """
    whole = (root / Path(pattern).expanduser()).as_posix()
    if Path(whole).is_dir():
        whole += "/**"
    start = fixed_folder(whole)
    found = [p for p in Path(start).rglob("*") if p.is_file() and matches(p.as_posix(), whole)]
    if not found:
        raise CorpusError(
            f"{pattern}: no file matches", f"relative paths start at {root}; ** crosses folders"
        )
    named = sorted((p.as_posix()[len(start) :], p) for p in found)
    return [(name, path) for name, path in named if not matches_any(name, excluded)]


def decode(data: bytes, where: str) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
        CorpusError: other bytes; the message has the position of the first.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{where}: not UTF-8 text (byte {error.start})", "convert the file, or exclude it"
        ) from None
