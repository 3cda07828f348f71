"""In a real browser: nothing overflows, nothing is logged, nothing is asked of the network."""

from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium.found() is None, reason="no chromium or chrome on the PATH"),
]


@pytest.fixture(scope="module")
def tab() -> Iterator[chromium.Tab]:
    with chromium.tab() as opened:
        yield opened


@pytest.mark.parametrize(("width", "dark"), [(400, False), (1600, True)])
def test_the_page_fits_and_is_quiet(tab: chromium.Tab, page: Path, width: int, dark: bool) -> None:
    tab.messages.clear()
    tab.requests.clear()
    tab.open(page, width=width, dark=dark)
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert tab.messages == []
    assert tab.requests == [page.as_uri()]
    plots = tab.value("document.querySelectorAll('.plot').length")
    assert plots == tab.value("document.querySelectorAll('.plot .main-svg:first-of-type').length") > 0
    assert tab.value("getComputedStyle(document.body).backgroundColor") == (
        "rgb(21, 24, 29)" if dark else "rgb(255, 255, 255)"
    )


def test_the_theme_can_be_chosen_and_plots_follow(tab: chromium.Tab, page: Path) -> None:
    tab.open(page, width=900, dark=False)
    colour = "getComputedStyle(document.querySelector('#training-curves .xtick text')).fill"
    before = tab.value(colour)
    tab.value("(() => { const b = document.getElementById('theme'); b.click(); b.click(); })()")
    assert tab.value("document.documentElement.dataset.theme") == "dark"
    assert tab.value(colour) != before
    assert tab.messages == []


def test_the_page_can_be_read_without_scripts(tab: chromium.Tab, page: Path) -> None:
    tab.open(page, width=900, script=False)
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert tab.value("document.querySelectorAll('.plot .main-svg').length") == 0
    assert tab.value("document.querySelectorAll('figure details table tbody tr').length") > 100
    assert tab.value("document.getElementById('theme').hidden") is True
