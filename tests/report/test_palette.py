"""Colours can be told apart by everybody, and text can be read, in both themes."""

from itertools import combinations

import numpy as np
import pytest

from heredity.report.palette import (
    MEMBER_COLOURS,
    THEMES,
    VERDICTS,
    channels,
    member_colours,
    member_dashes,
    verdict_of,
)

# Machado, Oliveira & Fernandes 2009, full severity, on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
LMS = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def linear(rgb: np.ndarray) -> np.ndarray:
    rgb = np.asarray(rgb) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    low, high = sorted(float(linear(rgb) @ [0.2126, 0.7152, 0.0722]) for rgb in (one, other))
    return (high + 0.05) / (low + 0.05)


def seen(colour: str, sight: str) -> np.ndarray:
    rgb = np.clip(np.array(SIGHT[sight]) @ linear(np.array(channels(colour))), 0, 1)
    return np.array(LAB) @ np.cbrt(np.array(LMS) @ rgb)


@pytest.mark.parametrize("theme", THEMES)
def test_text_has_contrast(theme: str) -> None:
    colours = {name: np.array(channels(value)) for name, value in THEMES[theme].items()}
    for text in ("ink", "quiet", "link", "warn"):
        for ground in ("page", "panel"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    # A token at full activation: 70 % of the glow over the panel, as the style sheet mixes it.
    assert contrast(colours["ink"], 0.7 * colours["glow"] + 0.3 * colours["panel"]) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("group", [[f"member-{i}" for i in range(MEMBER_COLOURS)], list(VERDICTS)])
def test_marks_stand_out_and_differ_for_every_sight(theme: str, group: list[str]) -> None:
    values = [THEMES[theme][name] for name in group]
    for value in values:
        assert contrast(np.array(channels(value)), np.array(channels(THEMES[theme]["page"]))) >= 3
    for sight in SIGHT:
        for one, other in combinations(values, 2):
            assert np.linalg.norm(seen(one, sight) - seen(other, sight)) > 0.09, (sight, one, other)


def test_members_keep_their_colour_and_repeats_differ_by_dash() -> None:
    names = [f"m{i}" for i in range(12)]
    looks = [(member_colours(names)[n], member_dashes(names)[n]) for n in names]
    assert len(set(looks)) == len(names)
    assert member_colours(names[:3])["m2"] == member_colours(names)["m2"]


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("persists", "persists"),
        ("emerges", "emerges"),
        ("disappears", "disappears"),
        ("lost", "disappears"),
        ("???", "undecided"),
    ],
)
def test_kinds_share_the_look_of_their_verdict(kind: str, verdict: str) -> None:
    assert verdict_of(kind) == verdict
