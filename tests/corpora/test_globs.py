"""Globs stay within a folder unless they say `**`."""

import pytest

from heredity.corpora.globs import fixed_folder, matches, matches_any
from heredity.errors import ConfigError


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("a.txt", "*.txt", True),
        ("b/a.txt", "*.txt", False),
        ("b/a.txt", "**/*.txt", True),
        ("a.txt", "**/*.txt", True),
        ("b/c/a.txt", "b/**", True),
        ("b", "b/**", False),
        ("b/_meta/x.lua", "**/_meta/**", True),
        ("_meta/x.lua", "**/_meta/**", True),
        ("x_meta/x.lua", "**/_meta/**", False),
        ("a1.txt", "a?.txt", True),
        ("a/.txt", "a?.txt", False),
        ("a1.txt", "a[0-3].txt", True),
        ("a4.txt", "a[!0-3].txt", True),
        ("a/.txt", "a[!0-3].txt", False),
        ("a+(b).txt", "a+(b).txt", True),
        ("aab.txt", "a+b.txt", False),
        ("a\n.txt", "a*.txt", True),
    ],
)
def test_matches(path: str, pattern: str, expected: bool) -> None:
    assert matches(path, pattern) is expected


def test_brackets_are_plain_but_for_ranges() -> None:
    assert matches("[.txt", "[[].txt")
    assert matches("a&.txt", "a[&^].txt")
    assert matches("a^.txt", "a[&^].txt")
    assert not matches("b.txt", "[^a].txt")
    with pytest.raises(ConfigError, match=r"glob '\[z-a\]' cannot be used"):
        matches("b", "[z-a]")


def test_matches_any_of_none_is_false() -> None:
    assert not matches_any("a", ())
    assert matches_any("a", ("b", "?"))


def test_fixed_folder_ends_before_the_first_wildcard() -> None:
    assert fixed_folder("a/b/*_x.txt") == "a/b/"
    assert fixed_folder("a/b*/c.txt") == "a/"
    assert fixed_folder("a/b/c.txt") == "a/b/"
    assert fixed_folder("c.txt") == ""
