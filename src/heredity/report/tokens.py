"""Show tokens of a context so that every character can be seen, marked by how strongly a latent fires."""

import unicodedata
from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup, escape

_SEEN = {" ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍"}
_INVISIBLE = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp", "Zs")  # controls, joiners and direction marks, odd spaces
_BREAK = Markup("<wbr>")


def visible(token: str) -> str:
    """Write a token with its white space and controls visible: ' the\\n' → '·the⏎'."""
    return "".join(_visible_character(character) for character in token)


def context(tokens: Sequence[str], activations: Sequence[float], strongest: float) -> Markup:
    """Mark the tokens of a context by activation.

    Args:
        tokens: text of each token.
        activations: of the latent, one per token, ≥ 0.
        strongest: the activation that gets the full colour; 0 when none fires.

    Returns:
        Escaped HTML; runs of silent tokens are plain text, each firing one a `<mark>` titled by its value.
    """
    parts: list[Markup] = []
    for fires, run in groupby(zip(tokens, activations, strict=True), key=lambda pair: pair[1] > 0):
        if not fires:
            parts.append(_breakable([token for token, _ in run]))
            continue
        for token, activation in run:
            share = min(activation / strongest, 1.0) if strongest > 0 else 0.0
            mark = Markup('<wbr><mark style="--a:{:.2f}" title="{:.2f}">{}</mark>')
            parts.append(mark.format(share, activation, visible(token)))
    return Markup("").join(parts)


def _breakable(tokens: Sequence[str]) -> Markup:
    """Escape tokens, letting the line break before each that starts with white space."""
    return Markup("").join(
        Markup("").join((_BREAK if token[:1] in _SEEN else "", escape(visible(token)))) for token in tokens
    )


def _visible_character(character: str) -> str:
    if character in _SEEN:
        return _SEEN[character]
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
