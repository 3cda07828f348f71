"""Files that a glob names, and bytes that become text."""

from pathlib import Path

from heredity.corpora.globs import fixed_folder, matches, matches_any
from heredity.errors import ConfigError, CorpusError


def find(pattern: str, root: Path, excluded: tuple[str, ...]) -> list[tuple[str, Path]]:
    """Return the files that match a glob, each with its name from the glob's fixed folder on, sorted by name.

    Raises:
        CorpusError: nothing matches.
    """
    start = fixed_folder(pattern)
    base, rest = root / Path(start).expanduser(), pattern[len(start) :]
    if rest in ("", ".") or (base / rest).is_dir():
        base, rest = base / rest, "**"
    found = [p for p in (base.rglob("*") if "**" in rest else base.glob(rest)) if p.is_file()]
    named = sorted((p.relative_to(base).as_posix(), p) for p in found)
    matching = [(name, path) for name, path in named if matches(name, rest)]
    if not matching:
        raise CorpusError(
            f"{pattern}: no file matches", f"relative paths start at {root}; ** crosses folders"
        )
    return [(name, path) for name, path in matching if not matches_any(name, excluded)]


def refuse_other_files(folder: Path, own: tuple[str, ...]) -> None:
    """Make sure that replacing a folder as a whole would lose no file but `own`.

    Raises:
        ConfigError: it has another file, or it is a file itself.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: exists and is not a folder", "choose another output")
    others = sorted(p.name for p in folder.iterdir() if p.name not in own) if folder.exists() else []
    if others:
        raise ConfigError(f"{folder}: holds {others[0]!r}, which would be lost", "choose an empty folder")


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
