"""Globs over paths with `/`: `*` and `?` stay within a folder, `**` crosses folders."""

import re
from collections.abc import Iterable
from functools import lru_cache

from heredity.errors import ConfigError

_PIECES = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^\]/]+\]|.", re.DOTALL)


def matches(path: str, pattern: str) -> bool:
    """Say whether a whole path matches a glob.

    Raises:
        ConfigError: a range in brackets that runs backwards.

    >>> matches("a/b/c.lua", "a/**/*.lua"), matches("a/c.lua", "a/**/*.lua"), matches("a/b/c.lua", "a/*.lua")
    (True, True, False)
    """
    return _compiled(pattern).fullmatch(path) is not None


def matches_any(path: str, patterns: Iterable[str]) -> bool:
    """Say whether a path matches one of the globs."""
    return any(matches(path, pattern) for pattern in patterns)


def fixed_folder(pattern: str) -> str:
    """Return the folder, with its final `/`, that every match of a glob lies in.

    >>> fixed_folder("texts/plays/*_gut.txt"), fixed_folder("**/*.lua")
    ('texts/plays/', '')
    """
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    return fixed[: fixed.rfind("/") + 1]


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile("".join(_translate(piece) for piece in _PIECES.findall(pattern)))
    except re.error:
        raise ConfigError(f"glob {pattern!r} cannot be used", "check the ranges in its [brackets]") from None


def _translate(piece: str) -> str:
    if piece == "**/":
        return r"(?:.*/)?"
    if piece == "**":
        return r".*"
    if piece == "*":
        return r"[^/]*"
    if piece == "?":
        return r"[^/]"
    if len(piece) > 1 and piece[0] == "[":
        negated = piece[1] == "!"
        inside = "".join(c if c == "-" else re.escape(c) for c in piece[1 + negated : -1])
        return f"[^/{inside}]" if negated else f"[{inside}]"
    return re.escape(piece)
