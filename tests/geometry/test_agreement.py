"""Scores of a clustering by hand, their nulls, and intervals that leave units out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_weights import planted
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from heredity.errors import ConfigError
from heredity.geometry.agreement import agreement, intervals, null
from heredity.geometry.clusters import cluster


def test_scores_by_hand():
    found, truth = [0, 0, 1, 1, 1, 2], ["a", "a", "a", "b", "b", "c"]
    scores = agreement(found, truth)
    assert scores.accuracy == pytest.approx(5 / 6)
    # a: precision 1, recall 2/3 → 4/5; b: precision 2/3, recall 1 → 4/5; c: 1
    assert scores.macro_f1 == pytest.approx((0.8 + 0.8 + 1.0) / 3)
    assert agreement(truth, truth) == agreement([2, 2, 2, 0, 0, 1], truth)
    assert agreement(truth, truth).ari == agreement(truth, truth).nmi == 1.0


@given(st.integers(0, 10_000))
def test_against_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    found, truth = rng.integers(0, 4, 15), rng.integers(0, 3, 15)
    scores = agreement(found, truth)
    assert scores.ari == pytest.approx(adjusted_rand_score(truth, found))
    assert scores.nmi == pytest.approx(normalized_mutual_info_score(truth, found))
    assert agreement([0, 0], ["a", "a"]).ari == agreement([0, 0], ["a", "a"]).nmi == 1.0


def test_a_label_without_a_cluster_scores_zero():
    scores = agreement([0, 0, 0, 0], ["a", "a", "b", "b"])
    assert scores.accuracy == 0.5
    assert scores.macro_f1 == pytest.approx((2 * 2 / 6 + 0) / 2)


def test_a_given_k_inflates_accuracy_and_the_null_says_by_how_much():
    truth = [str(index // 3) for index in range(18)]
    found = np.random.default_rng(0).permutation(np.arange(18) // 3)
    result = null(found, truth, seed=0)
    assert result.mean > 1.5 / 6  # far above 1/k
    assert result.p_value > 0.05
    perfect = null(np.arange(18) // 3, truth, seed=0)
    assert perfect.observed == 1.0
    assert perfect.p_value == pytest.approx(1 / 1001)
    assert null(np.arange(18) // 3, truth, score="ari", seed=0).mean == pytest.approx(0.0, abs=0.05)


def test_family_labels_move_between_data_sets_never_between_models():
    units = [f"set {index // 5}" for index in range(20)]  # 4 data sets × 5 seeds
    family = ["x" if index < 10 else "y" for index in range(20)]
    found = np.array([0 if index < 10 else 1 for index in range(20)])
    between_models = null(found, family, draws=500)
    between_sets = null(found, family, units=units, draws=500)
    assert between_models.p_value < 0.01  # five copies of each data set pretend to be evidence
    assert between_sets.p_value > 0.2  # four data sets in two families: 3 splits in all, one of them this


def test_units_that_cannot_be_shuffled_are_refused():
    with pytest.raises(ConfigError, match="a unit has two labels"):
        null(np.array([0, 1]), ["x", "y"], units=["u", "u"])
    with pytest.raises(ConfigError, match="every unit has its own label"):
        null(np.array([0, 0, 1, 1]), ["x", "x", "y", "y"], units=["u", "u", "v", "v"])


def test_interval_leaves_units_out_and_covers_the_score():
    rng = np.random.default_rng(1)
    matrix = planted((4,) * 6, 0.35, 0.0, 0.12, rng)
    labels = [str(index // 4) for index in range(24)]
    found = intervals(matrix, labels, cluster, units=labels, draws=40, seed=0)["accuracy"]
    score = agreement(cluster(matrix, 6).labels, labels).accuracy
    assert 0.0 < found.low <= found.high <= 1.0
    assert found.low - 0.1 <= score <= found.high + 0.1
    assert (found.units, found.draws) == (6, 40)
    assert found == intervals(matrix, labels, cluster, units=labels, draws=40, seed=0)["accuracy"]


def test_interval_needs_units():
    with pytest.raises(ConfigError, match="2 units to resample"):
        intervals(np.eye(4), ["a", "a", "b", "b"], cluster, units=["a", "a", "b", "b"])
    with pytest.raises(ConfigError, match="all models have one label"):
        intervals(np.eye(3), ["a", "a", "a"], cluster, units=["1", "2", "3"])
