"""The feature study's page says what its tables say, with every hostile text escaped, and opens thin."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up import EDGES, HOSTILE, MEMBERS, made_up_run

from heredity.report import feature_page, write_report
from heredity.run import Run


class Outline(HTMLParser):
    """Elements, anchors and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "wbr", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


@pytest.fixture(scope="module")
def outline(page: Path) -> Outline:
    return Outline(page.read_text())


def test_the_page_is_well_formed_and_its_anchors_lead_somewhere(outline: Outline) -> None:
    assert outline.open == []
    names = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(names) == len(set(names))
    links = [attributes["href"] or "" for tag, attributes in outline.elements if tag == "a"]
    assert len(links) > 10
    assert {link[1:] for link in links} <= set(names)


def test_tokens_cannot_become_elements(outline: Outline, page: Path) -> None:
    assert "img" not in {tag for tag, _ in outline.elements}
    assert not [a for _, attributes in outline.elements for a in attributes if a.startswith("on")]
    text = "".join(outline.text)
    assert HOSTILE.replace(" ", "·") in text
    assert HOSTILE in text  # in a rule, where spaces stay
    assert "\\u202e" in text
    assert "\u202e" not in page.read_text()
    assert "49" not in [word for word in text.split() if word.startswith("{{")]


def test_nothing_of_the_page_is_elsewhere(outline: Outline) -> None:
    for tag, attributes in outline.elements:
        for name in ("src", "href", "action", "data"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:,")) or not value, (tag, name, value)


def test_plotly_comes_once_and_is_not_drawn_without_figures(page: Path, tmp_path: Path) -> None:
    html = page.read_text()
    assert html.count('id="plotly-gzip"') == 1
    assert html.count('class="plot-data"') == html.count('data-plot="') == 12 + 2 * len(EDGES)
    thin = write_report(made_up_run(tmp_path / "run", only=("corpora", "members")))
    assert 'id="plotly-gzip"' not in thin.read_text()
    assert len(thin.read_text()) < 60_000


def test_every_share_stands_with_its_floor_and_ceiling(outline: Outline, run: Run) -> None:
    text = re.sub(r"\s+", " ", "".join(outline.text).replace("\u00a0", " "))
    for row in run.table("edges").iter_rows(named=True):
        share = f"{row['parent']} → {row['child']} {100 * row['persist']:.1f} %"
        start = text.index(share)
        assert "0.12 %" in text[start : start + 120]
        assert "44.0 %" in text[start : start + 160]
    assert re.search(r"0\.41 ?0\.36 to 0\.46", text)
    assert re.search(r"46 %, 42 % ?– ?–", text)  # the edge without a ratio


def test_a_section_says_what_is_not_made_yet(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", only=("corpora", "members", "training", "losses", "sweep"))
    html = write_report(run).read_text()
    assert html.count("Not made yet") == 6
    assert "Not made yet: the sparse autoencoders and their quality." in html
    assert "has not reached its findings" in html


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    html = write_report(made_up_run(tmp_path / "run", only=())).read_text()
    assert html.count("Not made yet") == 10


@pytest.mark.parametrize(
    "without", ["contexts", "latents", "explanations", "universal", "tau_curve", "sae_curve", "training"]
)
def test_any_one_table_may_be_missing(run: Run, tmp_path: Path, without: str) -> None:
    tables = {path.stem for path in (run.path / "tables").iterdir()} - {without}
    thin = made_up_run(tmp_path / "run", only=tuple(tables))
    assert "<h2" in feature_page.draw(thin)


def test_the_page_follows_from_the_tables(tmp_path: Path) -> None:
    pages = [feature_page.draw(made_up_run(tmp_path / name / "run")) for name in ("a", "b")]
    # Times and memory are of the run, not of the tables.
    first, second = (
        re.sub(r"(It took.*?\.</p>|<td class=\"n\">[\d.]+\xa0s</td>)", "", page) for page in pages
    )
    assert first == second


def test_universal_features_and_ten_of_each_edge_have_cards(page: Path) -> None:
    assert page.read_text().count('<article class="card">') == 10 + 10 * len(EDGES)


def test_the_family_is_drawn_with_every_edge(outline: Outline) -> None:
    arrows = [a for tag, a in outline.elements if tag == "path" and a.get("marker-end")]
    assert len(arrows) == len(EDGES)
    assert len([tag for tag, _ in outline.elements if tag == "rect"]) == len(MEMBERS)


def test_the_command_draws_the_page_again(run: Run, page: Path, tmp_path: Path) -> None:
    before = page.read_bytes()
    page.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "heredity", "report", str(run.path), "--json"],
        capture_output=True, text=True, check=True, env={**os.environ, "POLARS_MAX_THREADS": "1"},
    )  # fmt: skip
    assert json.loads(done.stdout) == {"schema": 1, "run": str(run.path), "report": str(page)}
    assert page.read_bytes() == before


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (None, "cannot be read as a run record"),
        ('{"command": "knit", "config": {}, "seed": 0, "stages": {}}', "no page draws a run of 'knit'"),
    ],
)
def test_a_folder_that_no_page_draws_is_one_line(record: str | None, said: str, tmp_path: Path) -> None:
    if record is not None:
        (tmp_path / "run.json").write_text(record)
    done = subprocess.run(
        [sys.executable, "-m", "heredity", "report", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) == 2
