"""The shell that every page shares: one HTML file that opens from disk and asks the network for nothing.

    section = Section("losses", "Losses", "losses.j2", {"rows": rows, "curve": Figure(...)})
    html = page(title="What was inherited", lead=["Plain sentences."], sections=[section])

Templates live in `templates/` and are always auto-escaped. A page that has a figure carries plotly.js once,
gzipped (2 MB instead of 5) and unpacked by the browser. A content security policy forbids every request and
every script but the page's own (and, where a section says so, data files beside it), so that no token of a
corpus can do harm even where an escape is forgotten.
"""

import base64
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from heredity import __version__
from heredity.report import formats, palette, tokens

_TEMPLATES = Path(__file__).parent / "templates"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A plot, what it compares on what data, and its numbers for those who cannot see it.

    Attributes:
        name: anchor, unique on the page.
        plot: a plotly figure as plain values (`data`, `layout`); a colour may be `var(--member-0)`.
        caption: what is compared, on what data, in one or two plain sentences.
        numbers: the plotted values, shown on demand and without JavaScript.
        height: pixels.
        min_width: pixels below which the plot scrolls inside its own box; 0 shrinks with the page.
    """

    name: str
    plot: Mapping[str, Any]
    caption: str
    numbers: pl.DataFrame
    height: int = 340
    min_width: int = 0


class Section(msgspec.Struct, frozen=True):
    """A titled part of a page, drawn by a template from values; `missing.j2` draws one not made yet.

    Attributes:
        anchor: id of the section, unique on the page.
        title: its heading.
        template: file in `templates/`.
        values: what the template reads.
        script: file in `templates/` that the section needs; it may load files that lie beside the page.
    """

    anchor: str
    title: str
    template: str
    values: Mapping[str, Any] = {}
    script: str | None = None


def page(*, title: str, lead: Sequence[str], sections: Sequence[Section], kicker: str = "") -> str:
    """Render a whole page.

    Args:
        title: of the document.
        lead: sentences of the paragraph below the title.
        sections: top to bottom.
        kicker: a short line above the title, such as the command that made the run.
    """
    bodies = [(section, render(section.template, **section.values)) for section in sections]
    drawn = any('class="plot-data"' in body for _, body in bodies)
    names = list(dict.fromkeys(["page.js", *(section.script for section in sections if section.script)]))
    own = [_source(name) for name in names]
    library, source = _plotly() if drawn else (None, None)
    style = Markup(palette.css() + "\n" + _source("page.css"))
    shell = {"title": title, "kicker": kicker, "lead": lead, "sections": bodies, "version": __version__}
    return render(
        "page.j2",
        **shell,
        style=style,
        scripts=[Markup(text) for text in own],
        plotly=library,
        policy=_policy([*own, source], beside=len(own) > 1),
    )


def render(template: str, **values: Any) -> Markup:
    """Render one template with auto-escaping; a name that is not given is an error, never an empty string."""
    return Markup(_environment().get_template(template).render(**values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shown = (
        formats.percent, formats.percent_range, formats.decimal, formats.decimal_range,
        formats.count, formats.size, formats.duration, formats.rate, tokens.visible,
    )  # fmt: skip
    environment.filters |= {function.__name__: function for function in shown}
    environment.filters["cell"] = _cell
    environment.globals |= {
        "percent_range": formats.percent_range,
        "decimal_range": formats.decimal_range,
        "sign": palette.SIGNS,
        "verdict_of": palette.verdict_of,
        "mark_context": tokens.context,
    }
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _cell(value: Any) -> str:
    """Write a value of a plain table of numbers."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: formats.MISSING}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}".replace("-", "\u2212") if isinstance(value, float) else str(value)


@cache
def _source(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _plotly() -> tuple[str, str]:
    """Return plotly.js gzipped in base64, and its source, whose hash the policy names."""
    from plotly.offline import get_plotlyjs

    source = str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")
    return base64.b64encode(gzip.compress(source.encode(), mtime=0)).decode(), source


def _policy(scripts: Sequence[str | None], *, beside: bool) -> str:
    """Allow these inline scripts, inline styles and images made in the page; of files, those beside it or none."""
    hashes = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts if script
    ]
    scripts_allowed = " ".join(
        [*(f"'sha256-{value}'" for value in hashes), *(["'self'", "file:"] if beside else [])]
    )
    return "; ".join((
        "default-src 'none'", f"script-src {scripts_allowed}", "style-src 'unsafe-inline'",
        "img-src data: blob:", "base-uri 'none'", "form-action 'none'",
    ))  # fmt: skip
