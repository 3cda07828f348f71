"""Lay out the family for an SVG drawing without script: generations downwards, arrows to children."""

from collections.abc import Mapping, Sequence

import msgspec

_WIDTH, _HEIGHT, _GAP, _DROP, _MARGIN = 164, 66, 28, 92, 4


class Box(msgspec.Struct, frozen=True):
    """A member: centre and top in pixels, its colour and the lines below its name."""

    name: str
    centre: float
    top: float
    colour: str
    lines: tuple[str, ...]


class Arrow(msgspec.Struct, frozen=True):
    """An edge: its path and what is written beside it."""

    path: str
    x: float
    y: float
    text: str


class Tree(msgspec.Struct, frozen=True):
    """A laid-out family.

    Attributes:
        width: pixels of the drawing.
        height: pixels of the drawing.
        box: width and height of a member's box.
    """

    width: float
    height: float
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    box: tuple[int, int] = (_WIDTH, _HEIGHT)


def lay_out(
    parents: Mapping[str, Sequence[str]],
    colours: Mapping[str, str],
    lines: Mapping[str, Sequence[str]],
    edges: Mapping[tuple[str, str], str],
) -> Tree:
    """Place members by generation (the longest way from a root), in the order given.

    Args:
        parents: of every member, parents before children.
        colours: of every member.
        lines: short texts in every member's box.
        edges: text beside the arrow of (parent, child).
    """
    generation: dict[str, int] = {}
    for name, above in parents.items():
        generation[name] = 1 + max((generation.get(parent, 0) for parent in above), default=-1)
    rows = [
        [name for name in parents if generation[name] == depth]
        for depth in range(max(generation.values()) + 1)
    ]
    width = max(len(row) for row in rows) * (_WIDTH + _GAP) - _GAP + 2 * _MARGIN
    boxes: dict[str, Box] = {}
    for depth, row in enumerate(rows):
        start = (width - len(row) * (_WIDTH + _GAP) + _GAP) / 2
        for place, name in enumerate(row):
            centre = start + place * (_WIDTH + _GAP) + _WIDTH / 2
            top = _MARGIN + depth * (_HEIGHT + _DROP)
            boxes[name] = Box(name, centre, top, colours[name], tuple(lines.get(name, ())))
    arrows = [
        _arrow(boxes[parent], boxes[name], edges.get((parent, name), ""), near_child=len(above) == 1)
        for name, above in parents.items()
        for parent in above
        if parent in boxes
    ]
    height = 2 * _MARGIN + len(rows) * _HEIGHT + (len(rows) - 1) * _DROP
    return Tree(width, height, tuple(boxes.values()), tuple(arrows))


def _arrow(parent: Box, child: Box, text: str, *, near_child: bool) -> Arrow:
    """Draw one edge; its text stands where it is apart from those of its siblings."""
    start, stop = parent.top + _HEIGHT, child.top - 7
    # Arrows of several parents end side by side, so that each can be followed.
    towards = child.centre + max(-40.0, min(40.0, (parent.centre - child.centre) / 3))
    middle = (start + stop) / 2
    curve = f"C{parent.centre:.1f} {middle:.1f} {towards:.1f} {middle:.1f} {towards:.1f} {stop:.1f}"
    x, y = (towards, middle + 14) if near_child else (parent.centre, middle - 12)
    return Arrow(f"M{parent.centre:.1f} {start:.1f} {curve}", x, y, text)
