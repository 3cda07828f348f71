"""Corpora as a command line names them: a file, a folder, a source, DOMAIN=SOURCE, or a TOML file of corpora.

>>> corpora(["news=text:news/*.txt"])[0][0].domain
'news'
"""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from heredity.corpora.documents import CorpusSpec, schemes
from heredity.errors import ConfigError

_NAMED = re.compile(r"([\w.+-]+)=(.+)", re.DOTALL)
_KINDS = {".jsonl": "jsonl", ".parquet": "parquet"}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    corpora: tuple[CorpusSpec, ...]
    archives: dict[str, str] = {}


def corpora(data: Sequence[str]) -> tuple[tuple[CorpusSpec, ...], dict[str, str]]:
    """Return the corpora that `data` names, and the sha256 of their archives.

    Args:
        data: each a path (.jsonl, .parquet, .txt, a folder of text), a source such as `jsonl:news/*.jsonl`,
            one of these after `DOMAIN=`, or a .toml file with [[corpora]] and [archives]. Without a name, a
            corpus is called after its file or folder.

    Raises:
        ConfigError: nothing given, no such path or source, a file that is not of corpora, two of one name.
    """
    if not data:
        raise ConfigError("no text is given", "name it with --data: a file, a folder, or DOMAIN=SOURCE")
    specs: list[CorpusSpec] = []
    archives: dict[str, str] = {}
    for given in data:
        if given.endswith(".toml") and not _NAMED.fullmatch(given):
            file = _read(Path(given))
            specs += file.corpora
            archives |= file.archives
        else:
            specs.append(_spec(given))
    names = [spec.domain for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two corpora are called {name!r}", "name them: --data NAME=SOURCE")
    return tuple(specs), archives


def _spec(given: str) -> CorpusSpec:
    named = _NAMED.fullmatch(given)
    source = named[2] if named else given
    path = Path(source)
    if path.exists():
        source = f"{_KINDS.get(path.suffix, 'text')}:{source}"
    elif source.partition(":")[0] not in schemes():
        known = ", ".join(f"{name}:…" for name in schemes())
        raise ConfigError(
            f"--data {given}: no such file, and no source of text", f"a source is one of {known}"
        )
    return CorpusSpec(domain=named[1] if named else _name(source), source=source)


def _name(source: str) -> str:
    parts = [p for p in re.split(r"[/#:]", source.partition(":")[2]) if p and not re.search(r"[*?\[]", p)]
    return Path(parts[-1].partition("@")[0]).stem if parts else source.partition(":")[0]


def _read(path: Path) -> _File:
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror})", "give a TOML file of [[corpora]]"
        ) from None
    except (ValueError, msgspec.ValidationError) as error:
        text = str(error).replace("`", "'")
        raise ConfigError(
            f"{path}: not a file of corpora ({text})",
            "it has [[corpora]] with domain and source, and [archives]",
        ) from None
