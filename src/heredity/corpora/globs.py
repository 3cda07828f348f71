"""Globs over paths with `/`: `*` and `?` stay within a folder, `**` crosses folders."""

import re
from collections.abc import Iterable
from functools import lru_cache

_PIECES = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^\]/]+\]|.", re.DOTALL)


def matches(path: str, pattern: str) -> bool:
    """Say whether a whole path matches a glob.

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
    return re.compile("".join(_translate(piece) for piece in _PIECES.findall(pattern)))


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
        inside = piece[1:-1].replace("\\", r"\\")
        return "[^/" + inside[1:] + "]" if inside[0] == "!" else f"[{inside}]"
    return re.escape(piece)
