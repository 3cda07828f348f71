"""The sections on matchings, consensus, the released code's rule, removal and meaning say what their tables say."""

import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from made_up import EDGES, MEMBERS, made_up_run

from heredity.report import feature_page
from heredity.run import Run

ANCHORS = {
    "found": "findings", "matchings": "matchings", "consensus": "consensus_edges", "historical": "historical",
    "ablation": "ablation", "meaning": "latent_statistics",
}  # fmt: skip


def text_of(html: str, anchor: str) -> str:
    """Return the words of one section, white space made plain."""
    whole = re.search(rf'<section id="{anchor}".*?</section>', html, re.DOTALL)
    assert whole, anchor
    words: list[str] = []
    parser = HTMLParser()
    parser.handle_data = words.append  # type: ignore[method-assign]
    parser.feed(re.sub(r"<script.*?</script>", "", whole[0], flags=re.DOTALL))
    return re.sub(r"\s+", " ", " ".join(words).replace("\u00a0", " "))


@pytest.fixture(scope="module")
def html(page: Path) -> str:
    return page.read_text()


@pytest.fixture(scope="module")
def tables(run: Run) -> frozenset[str]:
    return frozenset(path.stem for path in (run.path / "tables").iterdir())


@pytest.mark.parametrize("anchor", ANCHORS)
def test_a_section_without_its_table_is_left_out(tables: frozenset[str], tmp_path: Path, anchor: str) -> None:
    without = made_up_run(tmp_path / "run", only=tuple(tables - {ANCHORS[anchor]}))
    html = feature_page.draw(without)
    assert f'id="{anchor}"' not in html
    assert f'href="#{anchor}"' not in html
    assert sum(f'<section id="{other}"' in html for other in ANCHORS) == len(ANCHORS) - 1


def test_an_empty_table_is_no_table(tables: frozenset[str], tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", only=tuple(tables))
    for name in ("consensus", "consensus_edges"):  # as a run of two seeds writes them
        run.write_table(name, run.table(name).clear())
    html = feature_page.draw(run)
    assert '<section id="consensus"' not in html
    assert "with at least three seeds per member" in text_of(html, "limits")


def test_findings_stand_with_the_section_that_has_their_numbers(html: str) -> None:
    text = text_of(html, "found")
    assert "What persists on each edge On every edge 18 to 33 % of features persist" in text
    assert html.count('<dt><a href="#persistence">') == 1


def test_findings_of_an_older_run_are_a_plain_list(tables: frozenset[str], tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", only=tuple(tables))
    run.write_table("findings", run.table("findings").drop("section"))
    html = feature_page.draw(run)
    assert "<dl" not in html
    assert "On every edge 18 to 33 % of features persist" in text_of(html, "found")


def test_each_matching_has_its_own_floor_ceiling_and_false_discoveries(html: str) -> None:
    text = text_of(html, "matchings")
    for name, row in (
        ("best", "31.0 % 30.0 to 32.0 %"), ("mutual best", "17.0 % 16.0 to 18.0 %"),
        ("one to one", "23.0 % 22.0 to 24.0 %"),
    ):  # fmt: skip
        said = f"{name} {row} 0.10 % 95th pct. 0.30 %"
        assert text.count(said) == len(EDGES)
        after = text[text.index(said) : text.index(said) + 140]
        assert "0.50 0.42 % at most 2.3 % 0.77" in after
    assert "among 256 dimensions it is 0 ± 0.06" in text


def test_what_the_merge_took_stands_with_its_ceiling(html: str) -> None:
    text = text_of(html, "inheritance")
    assert "A second SAE of lua-bible finds 44.0 % of its latents again" in text
    assert "kept by the merge 60.0 % 1,320 floor 1.0 %, ceiling 44.0 %" in text


def test_consensus_stands_with_its_ceiling_and_beside_all_latents(html: str) -> None:
    text = text_of(html, "consensus")
    assert text.count("411 25.7 % 24.0 to 27.0 % by seed 64.4 % 60.0 to 68.0 %") == len(MEMBERS)
    row = "42.4 % 38.0 to 47.0 % 0.21 % 95th pct. 0.40 % 64.3 % 60.0 to 68.0 % 0.66 0.59 to 0.72"
    assert text.count(row) == len(EDGES)
    assert f"{row} 0.41 0.36 to 0.46 46.7 % 43.0 to 50.0 % of 411 44.9 % 8.4 % 46.0 %" in text
    assert f"{row} – – 46.7 %" in text  # all latents of this edge have no ratio
    assert "what at least 2 of the 3 find" in text


def test_the_released_codes_rule_stands_beside_its_null_and_ours(html: str) -> None:
    text = text_of(html, "historical")
    row = "98.8 % of 512 tried 44.0 % 26.9 % 0.00 % 118.0 shifted 1.3 36 % 95 %"
    assert text.count(row) == len(EDGES)


def test_removal_is_told_by_domain_and_beside_strangers(html: str) -> None:
    text = text_of(html, "ablation")
    # A domain of one document has no interval.
    row = "persists base 550 0.0600 0.0590 to 0.0610 0.109 0.0600 0.0600 0.0590 to 0.0610"
    assert row in text
    assert text.count("550") == 3 * len(EDGES)
    assert "20 latents of pairs that persist" in text
    assert "without 20 % of them" in text
    dearest = text[text.index("which it fires") :]
    assert (
        dearest.index("base 4 0.0008 ")
        < dearest.index("lua-bible 4 0.0008 ")
        < dearest.index("base 3 0.0006 ")
    )
    pairs = "40 0.48 0.16 to 0.73 0.15 −0.05 to 0.36 0.004 0.48 0.16 to 0.73"
    assert text.count(pairs) == len(EDGES) - 1
    assert "base → lua 5 – – – – – –" in text  # too few pairs


def test_without_pairs_that_are_alike_the_sets_are_shown(tables: frozenset[str], tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run", only=tuple(tables - {"ablation_alike", "effects", "explanations"}))
    html = feature_page.draw(run)
    assert "Does what persists also matter alike" not in html
    assert "What they do to the next token" not in html
    assert "How well words say it" not in html
    assert "Where they fire" in html


def test_meaning_sums_up_what_fires_often_enough(html: str) -> None:
    text = text_of(html, "meaning")
    # One of the sixty fires too rarely; 14 of the others have a token of their own, 5 keep to a place.
    assert text.count("59 5.0 3.0 to 7.0 23.7 % 8.5 % 0.0 %") == len(MEMBERS)
    assert text.count("rules 61 of 62 0.71 0.75 0.01 98.7 % 9 %") == len(MEMBERS)
    assert text.count("59 0.70 0.00 49 % 10 0.88 −0.02 100 % 0.93") == len(MEMBERS)
    assert "Best explained base 1: token is one of" in text


def test_features_of_meaning_and_removal_lead_to_their_pages(run: Run, tmp_path: Path) -> None:
    from many_features import many_features

    html = feature_page.draw(many_features(tmp_path / "run", 200))
    for anchor in ("ablation", "meaning"):
        section = re.search(rf'<section id="{anchor}".*?</section>', html, re.DOTALL)
        assert section
        links = re.findall(r'href="#feature=([\w-]+)/(\d+)"', section[0])
        assert len(links) >= 8
        assert {member for member, _ in links} <= set(MEMBERS)


def test_limits_name_what_was_not_measured(tmp_path: Path, tables: frozenset[str], html: str) -> None:
    text = text_of(html, "limits")
    assert "Of this run plays has only 2 documents <b>in</b> the stream." in text
    assert "What taking latents out costs is measured" in text
    bare = made_up_run(
        tmp_path / "run", only=tuple(tables - {"ablation", "historical", "matchings", "effects", "warnings"})
    )
    text = text_of(feature_page.draw(bare), "limits")
    assert "What taking a latent out does to the loss was not measured here." in text
    for gone in ("Of this run", "released code", "Another way of matching", "Direct effects"):
        assert gone not in text


def test_numbers_of_figures_are_the_tables(html: str, run: Run) -> None:
    for name in ("matchings-shares", "consensus-shares", "historical-shares", "ablation-alike", "scores-0"):
        assert f'<figure id="{name}">' in html
    assert run.table("matchings").filter(pl.col("tau") == 0.8).height == 3 * len(EDGES)
