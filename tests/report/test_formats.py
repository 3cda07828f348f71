"""Numbers and tokens as they are written."""

import pytest

from heredity.report import formats
from heredity.report.tokens import context, visible


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formats.percent(0.4234), "42.3\u00a0%"),
        (formats.percent(-0.02, 0), "−2\u00a0%"),
        (formats.percent(-0.00001), "0.0\u00a0%"),
        (formats.percent(None), "–"),
        (formats.percent(float("nan")), "–"),
        (formats.percent_range(0.401, 0.445), "40.1 to 44.5\u00a0%"),
        (formats.percent_range(None, 0.4), "–"),
        (formats.decimal(2.4131), "2.413"),
        (formats.decimal_range(-0.1, 0.1, 2), "−0.10 to 0.10"),
        (formats.count(12345), "12,345"),
        (formats.count(12.5), "12.5"),
        (formats.count(2210.5), "2,210"),
        (formats.size(999), "999\u00a0bytes"),
        (formats.size(1_670_000), "1.67\u00a0MB"),
        (formats.size(5.2e12), "5.2\u00a0TB"),
        (formats.duration(4.21), "4.2\u00a0s"),
        (formats.duration(200), "3\u00a0min 20\u00a0s"),
        (formats.duration(7500), "2\u00a0h 05\u00a0min"),
    ],
)
def test_one_format_per_quantity(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "·the"),
        ("\n\n\t", "⏎⏎⇥"),
        ("\x07", "\\x07"),
        ("\u202e", "\\u202e"),
        ("\u00a0", "\\xa0"),
        ("naïve", "naïve"),
    ],
)
def test_every_character_can_be_seen(token: str, shown: str) -> None:
    assert visible(token) == shown


def test_firing_tokens_are_marked_in_proportion() -> None:
    html = context(["a", "<b>", " c", "d"], [0.0, 1.0, 4.0, 0.0], 4.0)
    assert '<mark style="--a:0.25" title="1.00">&lt;b&gt;</mark>' in html
    assert '<mark style="--a:1.00" title="4.00">·c</mark>' in html
    assert html.startswith("a")
    assert html.endswith("d")


def test_a_silent_context_is_plain_text() -> None:
    assert context(["a", "&"], [0.0, 0.0], 0.0) == "a&amp;"
