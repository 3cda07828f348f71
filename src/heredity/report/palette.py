"""Colours of the page: one per member and per verdict, in a light and a dark theme.

Chosen by search so that any two of a group stay apart (Oklab) as seen with normal, protan, deutan and tritan
sight (Machado et al. 2009), and so that each has 3:1 against the page; text is always drawn in ink (≥ 4.5:1),
never in these. A verdict also has a sign, so that colour is never the only carrier.

Figures and templates name a colour by its CSS variable, `var(--member-0)`: the theme decides what it is.
"""

from collections.abc import Sequence

THEMES: dict[str, dict[str, str]] = {
    "light": {
        "page": "#ffffff", "panel": "#f4f5f7", "ink": "#1b1e23", "quiet": "#565c66", "line": "#d5d9df",
        "link": "#0b5cad", "glow": "#ffb000", "warn": "#8a3b00",
        "member-0": "#40444d", "member-1": "#1667a8", "member-2": "#a85400",
        "member-3": "#b95ae0", "member-4": "#3f9b7c",
        "persists": "#265f37", "emerges": "#938200", "disappears": "#ec4c86", "undecided": "#2f3136",
    },
    "dark": {
        "page": "#15181d", "panel": "#1e2229", "ink": "#e8eaed", "quiet": "#a9b0ba", "line": "#3a414b",
        "link": "#7cb8ff", "glow": "#c07a00", "warn": "#ffb37a",
        "member-0": "#b6bac2", "member-1": "#3b8bff", "member-2": "#f67925",
        "member-3": "#b07ba4", "member-4": "#7df5e6",
        "persists": "#6fc7a3", "emerges": "#f7c918", "disappears": "#c2707f", "undecided": "#dfe6ee",
    },
}  # fmt: skip

MEMBER_COLOURS = 5
VERDICTS = ("persists", "emerges", "disappears", "undecided")
SIGNS = {"persists": "●", "emerges": "▲", "disappears": "▼", "undecided": "○"}
DASHES = ("solid", "dash", "dot", "dashdot")

_MEANINGS = {
    "persists": ("persist", "both", "kept", "universal", "in all", "old"),
    "emerges": ("emerge", "new"),
    "disappears": ("disappear", "vanish", "lost"),
}


def member_colours(members: Sequence[str]) -> dict[str, str]:
    """Give every member its CSS variable, in the order of the members table; colours repeat after five."""
    return {name: f"var(--member-{index % MEMBER_COLOURS})" for index, name in enumerate(members)}


def member_dashes(members: Sequence[str]) -> dict[str, str]:
    """Give every member a line pattern, which tells members apart when their colours repeat."""
    return {name: DASHES[index // MEMBER_COLOURS % len(DASHES)] for index, name in enumerate(members)}


def verdict_of(kind: str) -> str:
    """Return the verdict whose colour and sign a kind of flow or highlight takes; else 'undecided'."""
    for verdict, words in _MEANINGS.items():
        if any(kind.strip().lower().startswith(word) for word in words):
            return verdict
    return "undecided"


def css() -> str:
    """Return the style rules that define the variables: light by default, dark by preference or by choice."""
    light, dark = (_declarations(THEMES[name]) for name in ("light", "dark"))
    return (
        f":root {{ color-scheme: light; {light} }}\n"
        "@media screen and (prefers-color-scheme: dark) "
        f"{{ :root:not([data-theme=light]) {{ color-scheme: dark; {dark} }} }}\n"
        f"@media screen {{ :root[data-theme=dark] {{ color-scheme: dark; {dark} }} }}"
    )


def _declarations(colours: dict[str, str]) -> str:
    return " ".join(_declaration(name, value) for name, value in colours.items())


def _declaration(name: str, value: str) -> str:
    red, green, blue = channels(value)
    return f"--{name}: {value}; --{name}-soft: rgba({red}, {green}, {blue}, 0.42);"


def channels(value: str) -> tuple[int, int, int]:
    """Split `#rrggbb` into its three channels in [0, 255]."""
    red, green, blue = (int(value[start : start + 2], 16) for start in (1, 3, 5))
    return red, green, blue
