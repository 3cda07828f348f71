"""P_B is one minus the Mann–Whitney share, ties and infinities included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from heredity.errors import ConfigError
from heredity.regions.separation import chance, p_b, resampled, resampled_members, separation

LOSSES = st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.5, 1.0, 2.0]), min_size=1, max_size=9)


@given(LOSSES, LOSSES)
def test_it_is_mann_whitney(good: list[float], bad: list[float]) -> None:
    u = mannwhitneyu(good, bad).statistic
    assert p_b(good, bad) == pytest.approx(1 - u / (len(good) * len(bad)))
    assert p_b(good, bad) == pytest.approx(1 - p_b(bad, good))
    found = separation(good, bad)
    assert found.loose - found.strict == pytest.approx(found.ties)
    assert found.p_b == pytest.approx((found.strict + found.loose) / 2)
    assert found.strict == pytest.approx(np.mean([g < b for g in good for b in bad]))


def test_an_infinite_loss_is_the_worst_and_nan_is_refused() -> None:
    assert p_b([1.0, 2.0], [np.inf, np.inf]) == 1.0
    assert p_b([np.inf], [np.inf]) == 0.5
    with pytest.raises(ConfigError, match="not a number"):
        p_b([1.0], [np.nan])
    with pytest.raises(ConfigError, match=r"shape \[0\]"):
        p_b([], [1.0])


def test_the_interval_holds_the_truth_and_narrows() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.normal(size=12), rng.normal(1.0, size=12)
    redraws = [
        (a, b)
        for a, b in zip(
            resampled(good, 300, seed=0, name="a"), resampled(bad, 300, seed=0, name="b"), strict=True
        )
    ]
    found = separation(good, bad, redraws)
    assert found.low < 0.76 < found.high  # Φ(1/√2)
    assert found.low < found.p_b < found.high
    assert found.draws == 300
    assert separation(good, bad).low == separation(good, bad).high == found.p_b


def test_resamples_are_keyed_and_never_of_one_member_alone() -> None:
    rows = resampled_members("abc", 50, seed=1, name="snli")
    assert all(len(np.unique(row)) > 1 for row in rows)
    assert np.array_equal(rows[7], resampled_members("abc", 50, seed=1, name="snli")[7])
    assert not np.array_equal(np.array(rows), np.array(resampled_members("abc", 50, seed=2, name="snli")))
    assert all(
        len(row) == 3 for row in resampled_members("aaa", 9, seed=1, name="snli")
    )  # one set: its seeds


def test_members_of_a_set_are_drawn_together() -> None:
    units = ["snli", "snli", "snips", "snips", "emo"]
    for row in resampled_members(units, 50, seed=0, name="general"):
        counts = np.bincount(row, minlength=5)
        assert counts[0] == counts[1]
        assert counts[2] == counts[3]
    alike = np.repeat(np.arange(12.0), 3)  # twelve sets, three equal models each
    wide, narrow = (
        np.std([draw.mean() for draw in resampled(alike, 500, seed=0, name="x", units=which)])
        for which in (np.repeat(np.arange(12), 3).tolist(), None)
    )
    assert wide == pytest.approx(np.sqrt(3) * narrow, rel=0.15)


def test_chance_counts_the_choices_that_separate_as_well() -> None:
    units = np.repeat(list("abcdef"), 2).tolist()
    losses = np.repeat(np.arange(6.0), 2)
    best = [unit in "ab" for unit in units]
    assert chance(losses, best, units, seed=0, name="x") == pytest.approx(
        1 / 15
    )  # one choice of two out of six
    assert chance(losses, best, units, seed=0, name="x", draws=10) >= 1 / 11  # drawn, never 0
    worst = [unit in "ef" for unit in units]
    assert chance(losses, worst, units, seed=0, name="x") == 1.0
    assert chance(np.zeros(12), best, units, seed=0, name="x") == 1.0
