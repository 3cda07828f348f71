"""Conditions of one token: each looks at one attribute and holds for some of its values."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool
from msgspec import Struct
from numpy import ndarray

from heredity.features.explain._halves import LATER, Attribute

FIRSTS = (1, 2, 4, 8, 16, 32)
_LONGEST_START, _LONGEST_END = 5, 4

CLASSES: dict[str, Callable[[str], bool]] = {
    "digits": lambda t: t.strip().isdigit(),
    "a capitalised word": lambda t: t.strip()[:1].isupper() and t.strip()[1:].islower(),
    "capitals": lambda t: len(t.strip()) > 1 and t.strip().isupper(),
    "punctuation": lambda t: bool(t.strip()) and not any(c.isalnum() or c.isspace() for c in t.strip()),
    "white space": lambda t: bool(t) and t.isspace(),
    "a line end": lambda t: "\n" in t,
    "the start of a word": lambda t: t[:1] == " " and t[1:2].isalpha(),
    "the inside of a word": lambda t: t[:1].isalpha() and t[:1].islower(),
}


class Condition(Struct, frozen=True, eq=False):
    """Holds on the tokens whose attribute has one of the marked values.

    Attributes:
        attribute: what it looks at.
        marks: the values for which it holds.
        text: in words; of `previous`, those of the token before.
    """

    attribute: Attribute
    marks: Bool[ndarray, " values"]
    text: str


class Strings:
    """Beginnings and ends that several vocabulary entries share.

    Attributes:
        members: the seen entries of every string, one string after the other.
        offsets: where each string's entries begin in `members`.
    """

    def __init__(self, words: Sequence[str], seen: Bool[ndarray, " vocabulary"]) -> None:
        """Find every beginning of up to 5 and end of up to 4 characters that two different seen words share."""
        groups: dict[tuple[bool, str], list[int]] = {}
        for i in np.flatnonzero(seen).tolist():
            word = words[i]
            for n in range(1, min(_LONGEST_START, len(word)) + 1):
                groups.setdefault((True, word[:n]), []).append(i)
            for n in range(1, min(_LONGEST_END, len(word)) + 1):
                groups.setdefault((False, word[-n:]), []).append(i)
        same: dict[
            tuple[bool, tuple[int, ...]], str
        ] = {}  # of strings with the same words the longest is kept
        for (starts, string), own in groups.items():
            if len({words[i] for i in own}) > 1 and len(string) >= len(same.get((starts, tuple(own)), "")):
                same[starts, tuple(own)] = string
        self._words = words
        self._strings = [(starts, string) for (starts, _), string in same.items()]
        self.members = np.array([i for _, own in same for i in own], np.int64)
        self.offsets = np.cumsum([0, *(len(own) for _, own in same)])[: len(same)]
        self._made: dict[tuple[int, Attribute], Condition] = {}

    def __len__(self) -> int:
        return len(self._strings)

    def condition(self, at: int, attribute: Attribute, size: int) -> Condition:
        """Return one string as a condition; entries that were not seen are marked as well."""
        if (at, attribute) not in self._made:
            starts, string = self._strings[at]
            marks = np.zeros(size, bool)
            marks[: len(self._words)] = [
                word.startswith(string) if starts else word.endswith(string) for word in self._words
            ]
            text = f"a token that {'starts' if starts else 'ends'} with {string!r}"
            self._made[at, attribute] = Condition(attribute, marks, text)
        return self._made[at, attribute]


def listed(attribute: Attribute, entries: Sequence[int], words: Sequence[str], size: int) -> Condition:
    """Name vocabulary entries; `len(words)`, before a context's first token, is called its start."""
    marks = np.zeros(size, bool)
    marks[list(entries)] = True
    named = [repr(words[i]) if i < len(words) else "the start of a context" for i in entries]
    return Condition(attribute, marks, ", ".join(dict.fromkeys(named)))


def firsts(attribute: Attribute) -> list[Condition]:
    """Return the first 1, 2, 4 … tokens of a context, a document or a line."""
    values = np.arange(LATER + 1)
    named = [
        f"the first token of a {attribute}" if k == 1 else f"the first {k} tokens of a {attribute}"
        for k in FIRSTS
    ]
    return [Condition(attribute, values < k, text) for k, text in zip(FIRSTS, named, strict=True)]


def classes(attribute: Attribute, words: Sequence[str], size: int) -> list[Condition]:
    """Return the classes of characters that any vocabulary entry belongs to."""
    found = []
    for text, test in CLASSES.items():
        marks = np.zeros(size, bool)
        marks[: len(words)] = [test(word) for word in words]
        if marks.any():
            found.append(Condition(attribute, marks, text))
    return found


def in_words(conditions: Sequence[Condition], domains: Sequence[str]) -> str:
    """Write conditions that hold together as one phrase, e.g. "' local', the first token of a line, in lua"."""
    parts = {c.attribute: c for c in conditions}
    phrases = []
    if "token" in parts:
        phrases.append(parts["token"].text)
    if "previous" in parts:
        phrases.append(f"after {parts['previous'].text}")
    for name in ("context", "document", "line"):
        if name in parts:
            text = parts[name].text
            phrases.append(f"among {text}" if phrases and "tokens" in text else text)
    if "domain" in parts:
        domain = domains[int(parts["domain"].marks.argmax())]
        phrases.append(f"in {domain}" if phrases else f"any token of {domain}")
    return ", ".join(phrases)
