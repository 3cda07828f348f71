"""Draw lines over one axis as SVG, readable on a light and on a dark page; no plotting library needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 196, 40, 52  # margins; names of the lines stand at the right
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600 }
.grid { stroke: #8886; stroke-width: 1 } .s0 { --c: #0969da } .s1 { --c: #bc4c00 } .s2 { --c: #57606a }
.s3 { --c: #1a7f37 } path { stroke: var(--c); stroke-width: 2; fill: none } circle, .name { fill: var(--c) }
@media (prefers-color-scheme: dark) {
  text { fill: #d0d7de } .s0 { --c: #58a6ff } .s1 { --c: #f0883e } .s2 { --c: #9198a1 } .s3 { --c: #3fb950 }
}
"""


@dataclass(frozen=True)
class Line:
    """One line: its name, and a height for every x."""

    name: str
    heights: Sequence[float]


def draw(title: str, x_label: str, y_label: str, x: Sequence[float], lines: Sequence[Line]) -> str:
    """Return an SVG of up to four lines over the same x; both axes are linear, the heights start at 0."""
    top = max(max(line.heights) for line in lines) * 1.1
    step = next(s for s in (m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)) if top / s <= 6)

    def at_x(value: float) -> float:
        return LEFT + value / max(x) * (WIDTH - LEFT - RIGHT)

    def at_y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>",
    ]
    for i in range(int(top / step) + 1):
        y = at_y(i * step)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{i * step:.4g}</text>')
    parts += [
        f'<text x="{at_x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
        for value in x
    ]
    for name_y, (number, line) in zip(
        _apart([at_y(li.heights[-1]) for li in lines]), enumerate(lines), strict=True
    ):
        points = [(at_x(a), at_y(b)) for a, b in zip(x, line.heights, strict=True)]
        parts.append(f'<g class="s{number}"><path d="M{" L".join(f"{a:.1f} {b:.1f}" for a, b in points)}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in points]
        parts.append(
            f'<text class="name" x="{WIDTH - RIGHT + 10}" y="{name_y + 4:.1f}">{escape(line.name)}</text></g>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _apart(wanted: list[float], gap: float = 17.0) -> list[float]:
    """Move labels down where they would overlap, in the order of their heights."""
    placed: list[float] = []
    for y in sorted(wanted):
        placed.append(max(y, placed[-1] + gap) if placed else y)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    found = dict(zip(order, placed, strict=True))
    return [found[i] for i in range(len(wanted))]
