"""The files of features: every latent that fires has its page, with its relatives; a browser finds and shows them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest
from many_features import CONTEXTS, many_features

from heredity.report import write_report
from heredity.report.feature_files import CHUNK, write_feature_files
from heredity.report.view import View
from heredity.run import Run

LATENTS = 300
browser = pytest.mark.skipif(chromium.found() is None, reason="no chromium or chrome on the PATH")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return many_features(tmp_path_factory.mktemp("many") / "run", LATENTS)


@pytest.fixture(scope="module")
def page(run: Run) -> Path:
    return write_report(run)


def read(file: Path, call: str) -> Any:
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"heredity.{call}(")
    return json.loads(text.removeprefix(f"heredity.{call}(").removesuffix(");\n"))


def test_every_latent_that_fires_has_a_page(run: Run, page: Path, tmp_path: Path) -> None:
    index = read(page.parent / "features" / "index.js", "index")
    names = [member["name"] for member in index["members"]]
    assert names == ["base", "lua", "bible", "lua-bible"]
    assert index["chunk"] == CHUNK
    assert sorted(p.name for p in (page.parent / "features").iterdir()) == sorted(
        ["index.js", *(f"{m}-{c}.js" for m in range(4) for c in range(-(-LATENTS // CHUNK)))]
    )
    assert write_feature_files(View(run), tmp_path) == 4 * LATENTS * 9 // 10
    latents, contexts = run.table("latents"), run.table("contexts")
    for place, name in enumerate(names):
        pages = [
            row
            for chunk in range(-(-LATENTS // CHUNK))
            for row in read(page.parent / "features" / f"{place}-{chunk}.js", "chunk")[2]
        ]
        own = latents.filter(member=name).sort("latent")
        assert [row["l"] for row in pages] == list(range(LATENTS))
        assert [row["n"] for row in pages] == own["firings"].to_list() == index["members"][place]["firings"]
        for latent in (0, 7, 131, 299):
            shown = contexts.filter(member=name, latent=latent).sort("rank")
            assert [c[2] for c in pages[latent]["contexts"]] == shown["tokens"].to_list()
            assert len(pages[latent]["contexts"]) == (0 if latent % 10 == 9 else CONTEXTS)
            for (_, _, _, fires), heights in zip(
                pages[latent]["contexts"], shown["activations"], strict=True
            ):
                want = {place: height for place, height in enumerate(heights) if height > 0}
                assert dict(zip(fires[::2], fires[1::2], strict=True)) == pytest.approx(want, rel=5e-3)


def test_ancestors_and_descendants_are_the_matches_of_that_side(run: Run, page: Path) -> None:
    index = read(page.parent / "features" / "index.js", "index")
    lua = read(page.parent / "features" / "1-0.js", "chunk")[2][5]
    assert list(lua["up"]) == ["base"]
    assert list(lua["down"]) == ["lua-bible"]
    matches = (
        run.table("matches").filter(parent="base", child="lua", side="child", latent_child=5).sort("rank")
    )
    assert [one[0] for one in lua["up"]["base"]] == matches["latent_parent"].to_list()
    assert [one[1] for one in lua["up"]["base"]] == pytest.approx(matches["r"].to_list(), abs=6e-3)
    letter = {"persists": "p", "emerges": "g", "undecided": "u"}[matches["verdict"][0]]
    assert lua["up"]["base"][0][3] == letter == index["members"][1]["up"]["base"]["fate"][5]
    assert index["members"][1]["up"]["base"]["fate"][9] == "-"
    assert index["members"][0]["up"] == {}
    assert set(index["members"][3]["up"]) == {"lua", "bible"}


def test_a_page_says_who_agrees_on_it_and_what_its_removal_costs(run: Run, page: Path) -> None:
    index = read(page.parent / "features" / "index.js", "index")
    assert index["members"][2]["agreed"] == [3, 4, 5, 6]
    rows = read(page.parent / "features" / "2-0.js", "chunk")[2]
    assert [row["found_by"] for row in rows[2:8]] == [None, 2, 2, 2, 2, None]
    costs = run.table("ablation").filter(member="bible", kind="latent", domain="all").sort("latent")
    assert [row["cost"][0] for row in rows[:5]] == pytest.approx(costs["loss_change"].to_list())
    assert rows[5]["cost"] is None


def test_files_are_written_anew_and_only_once_there_are_features(run: Run, tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "9-9.js").write_text("old")
    write_feature_files(View(run), tmp_path)
    assert not (tmp_path / "features" / "9-9.js").exists()
    bare = Run.open(tmp_path / "bare", command="track", config={}, seed=0)
    assert write_feature_files(View(bare), tmp_path / "bare") == 0
    assert not (tmp_path / "bare" / "features").exists()


@pytest.fixture(scope="module")
def tab() -> Iterator[chromium.Tab]:
    with chromium.tab() as opened:
        yield opened


def settle(tab: chromium.Tab, condition: str) -> None:
    """Wait until a condition holds in the page, for as long as a busy machine may take."""
    said = json.dumps(f"never: {condition}")
    tab.value(f"""new Promise((done, failed) => {{ let left = 600; const wait = () => {{
        if ({condition}) done(true); else if (left--) setTimeout(wait, 30); else failed({said}); }};
        wait(); }})""")


@pytest.mark.browser
@browser
def test_a_browser_finds_features_and_shows_their_relatives(tab: chromium.Tab, page: Path) -> None:
    tab.open(page, width=1300)
    assert not [r for r in tab.requests if "features/" in r]  # nothing is loaded before it is asked for
    findings = tab.value("document.getElementById('found').textContent")
    assert len(findings) > 100
    tab.value("document.getElementById('browse').scrollIntoView()")
    settle(
        tab,
        "document.querySelectorAll('#feature-list li').length > 50 && document.querySelector('#feature .kin')",
    )
    assert tab.value("document.getElementById('feature-count').textContent") == "1,080 latents"
    assert (
        tab.value("document.getElementById('found').textContent") == findings
    )  # the list has a place of its own
    twice = "[...document.querySelectorAll('[id]')].map((e) => e.id).filter((id, n, all) => all.indexOf(id) !== n)"
    assert tab.value(twice) == []
    tab.value("""(() => { const f = document.querySelector('.find'); f.text.value = 'word77'; f.member.value = 'lua';
        f.dispatchEvent(new Event('input')); })()""")
    settle(tab, "!document.getElementById('feature-count').textContent.startsWith('1,080')")
    hits = tab.value("[...document.querySelectorAll('#feature-list li')].map((li) => li.textContent)")
    assert hits
    assert all("word77" in hit for hit in hits)
    tab.value("location.hash = '#feature=lua/5'")
    settle(tab, "document.querySelector('#feature .own h4')?.textContent.includes('lua 5')")
    titles = tab.value("[...document.querySelectorAll('#feature h5')].map((h) => h.textContent)")
    assert titles == ["Ancestors", "The feature", "Descendants"]
    assert tab.value("document.querySelectorAll('#feature .tokens mark').length") > 10
    assert tab.value("document.querySelectorAll('#feature img').length") == 0
    tab.value("location.hash = '#feature=lua/9'")
    settle(tab, "document.querySelector('#feature .warn')")
    assert tab.messages == []
    assert all(request.startswith("file:") for request in tab.requests)


@pytest.mark.browser
@browser
@pytest.mark.parametrize("width", [400, 1300])
def test_the_pages_of_features_fit(tab: chromium.Tab, page: Path, width: int) -> None:
    tab.open(page.with_name("report.html"), width=width)
    tab.value("location.hash = '#feature=lua-bible/3'")
    settle(tab, "document.querySelector('#feature .own h4')?.textContent.includes('lua-bible 3')")
    said = tab.value("document.querySelector('#feature .own').textContent")
    assert "Taking it out changes the loss by 0.0006 nats per token (−0.0004 to 0.0016)." in said
    assert "Agreed on by 2 of the 3 SAEs of lua-bible." in said
    assert tab.value("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
@browser
def test_a_page_without_its_folder_says_so(tab: chromium.Tab, page: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.html"
    alone.write_bytes(page.read_bytes())
    tab.open(alone, width=900)
    tab.value("document.getElementById('browse').scrollIntoView()")
    settle(tab, "document.getElementById('feature-count').textContent.includes('keep the folder features')")
