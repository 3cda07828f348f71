"""Searches over known losses: they find the minimum, evaluate nothing twice, and go on with a trace."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heredity.errors import ConfigError
from heredity.regions.search import Trace, clustered, golden_section, greedy_soup, grid, kinship_greedy


@settings(max_examples=40, deadline=None, derandomize=True)
@given(best=st.floats(0, 1), tolerance=st.sampled_from([0.1, 0.01, 0.001]))
def test_golden_section_finds_a_minimum_to_its_tolerance(best: float, tolerance: float) -> None:
    found = golden_section(Trace(lambda w: abs(w[0] - best)), tolerance=tolerance)
    assert found.weights[0] == pytest.approx(best, abs=tolerance)


def test_golden_section_evaluates_one_point_for_each_step() -> None:
    trace = Trace(lambda w: (w[0] - 0.3) ** 2)
    golden_section(trace, tolerance=0.01)
    assert len(trace.steps) <= 2 + 2 + np.ceil(np.log(0.01) / np.log(0.618))


def test_a_search_goes_on_with_a_trace() -> None:
    first = Trace(lambda w: (w[0] - 0.6) ** 2)
    grid(first, [0, 0.5, 1])
    asked = []
    second = Trace(lambda w: asked.append(w) or 1.0, {s.weights: s.loss for s in first.steps})  # type: ignore[func-returns-value]
    assert grid(second, [0, 0.5, 1]).weights == (0.5,)
    assert asked == []


def loss_to(target: list[float]) -> Trace:
    """Return a trace whose loss is the distance of a soup's weights to a target."""
    return Trace(lambda w: float(np.linalg.norm(np.subtract(w, target))))


def test_greedy_soup_keeps_what_helps() -> None:
    assert greedy_soup(loss_to([0.5, 0, 0.5, 0]), 4).weights == (0.5, 0, 0.5, 0)
    assert greedy_soup(loss_to([0, 1, 0]), 3).weights == (0, 1, 0)


def test_kinship_greedy_explores_the_least_kin() -> None:
    kinship = np.array([[1, 0.9, 0.8, 0.1], [0.9, 1, 0.8, 0.2], [0.8, 0.8, 1, 0.3], [0.1, 0.2, 0.3, 1]])
    trace = loss_to([0.5, 0.4, 0, 0.3])
    found = kinship_greedy(trace, kinship, top=2)
    assert trace.steps[-1].why == "least kin: with 3"
    assert found.weights == pytest.approx((1 / 3, 1 / 3, 0, 1 / 3))


def test_clusters_first() -> None:
    assert clustered(loss_to([0.25] * 4), [0, 0, 1, 1]).weights == (0.25, 0.25, 0.25, 0.25)
    assert clustered(loss_to([0.5, 0.5, 0, 0]), [0, 0, 1, 1]).weights == (0.5, 0.5, 0, 0)


def test_inside_a_cluster_only_what_helps_is_merged() -> None:
    trace = loss_to([0.7, -0.4, 0.25, 0.25])  # the second member harms the first cluster
    found = clustered(trace, [0, 0, 1, 1])
    assert found.weights == (0.5, 0, 0.25, 0.25)  # each cluster counts once, whatever its size
    assert [step.why for step in trace.steps] == [
        "cluster 0: 0 alone", "cluster 0: 1 alone", "cluster 0: with 1",
        "cluster 1: 2 alone", "cluster 1: 3 alone", "cluster 1: with 3", "with cluster 1",
    ]  # fmt: skip


def test_clusters_have_patience() -> None:
    trace = loss_to([1, 0, 0, 0])
    assert clustered(trace, [0, 0, 0, 0], patience=1).weights == (1, 0, 0, 0)
    assert len(trace.steps) == 5


def test_patience_stops_early_and_nan_is_refused() -> None:
    trace = Trace(lambda w: w[0])
    golden_section(trace, tolerance=1e-9, patience=3)
    assert len(trace.steps) < 15
    with pytest.raises(ConfigError, match="not a number"):
        grid(Trace(lambda w: float("nan")), [0.5])
