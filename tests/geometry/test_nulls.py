"""Every null is calibrated: on models that have nothing to do with each other it rejects as it says."""

import numpy as np
import pytest
from planted_weights import normal, planted, plus, products

from heredity.errors import ConfigError
from heredity.geometry.agreement import null
from heredity.geometry.nearest import nearest
from heredity.geometry.nulls import compare, relatedness, separation_null, shuffled_elements

SMALL = (300, 500, 200)


def _rejections(p_values, level):
    """Return the count, and the band that 99.9 % of honest counts fall in."""
    n = len(p_values)
    band = 3.3 * np.sqrt(n * level * (1 - level))
    return np.count_nonzero(np.asarray(p_values) <= level), n * level - band, n * level + band


def test_compare_counts_ties_against_the_claim():
    result = compare(1.0, np.array([0.0, 1.0, 2.0, 0.5]))
    assert result.p_value == pytest.approx(3 / 5)
    assert result.mean == 0.875


def test_moments_of_shuffled_elements_are_those_of_real_shuffles():
    rng = np.random.default_rng(0)
    x, y = rng.gamma(2.0, 1.0, 60) + 0.5, rng.normal(0.3, 1.0, 60)
    both = np.stack([x, y])
    mean, deviation = shuffled_elements((both @ both.T)[None], both.sum(axis=1)[None], np.array([60]))
    draws = np.array([x @ rng.permutation(y) for _ in range(20_000)])
    assert mean[0, 1] == pytest.approx(draws.mean(), abs=4 * draws.std() / np.sqrt(20_000))
    assert deviation[0, 1] == pytest.approx(draws.std(), rel=0.02)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_relatedness_is_calibrated_on_independent_models(offset):
    rng = np.random.default_rng(1)
    p_values = []
    for _ in range(300):
        models = [[offset + tensor for tensor in normal(rng, 1.0, SMALL)] for _ in range(3)]
        raw = np.array([np.stack(t) @ np.stack(t).T for t in zip(*models, strict=True)])
        totals = np.array([np.stack(t).sum(axis=1) for t in zip(*models, strict=True)])
        _, _, p = relatedness(raw, totals, np.array(SMALL))
        p_values.append(p[1, 2])
    for level in (0.05, 0.2):
        count, low, high = _rejections(p_values, level)
        assert low <= count <= high


def test_task_vectors_of_independent_models_are_calibrated_and_of_siblings_found():
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(200):
        base = normal(rng, 1.0, SMALL)
        inner, sums, sizes = products(base, [plus(base, normal(rng, 0.01, SMALL)) for _ in range(2)])
        p_values.append(relatedness(inner[:, 1:, 1:], sums[:, 1:], sizes)[2][0, 1])
    count, low, high = _rejections(p_values, 0.05)
    assert low <= count <= high
    base, shared = normal(rng, 1.0, SMALL), normal(rng, 0.005, SMALL)
    kin = [plus(base, shared, normal(rng, 0.01, SMALL)) for _ in range(2)]
    inner, sums, sizes = products(base, kin)
    correlation, _, p = relatedness(inner[:, 1:, 1:], sums[:, 1:], sizes)
    assert p[0, 1] < 1e-4
    assert correlation[0, 1] == pytest.approx(0.2, abs=0.1)


def test_label_nulls_are_calibrated_on_models_without_groups():
    rng = np.random.default_rng(3)
    gaps, scores = [], []
    labels = [str(index // 4) for index in range(12)]
    for draw in range(200):
        similarity = planted((1,) * 12, 0.0, 0.0, 0.1, rng)
        gaps.append(separation_null(similarity, labels, draws=99, seed=draw).p_value)
        scores.append(null(rng.integers(0, 3, 12), labels, score="ari", draws=99, seed=draw).p_value)
    for p_values in (gaps, scores):
        count, _, high = _rejections(p_values, 0.05)
        assert count <= high
    count, low, _ = _rejections(gaps, 0.2)
    assert count >= low, "the null must not be so shy that it never rejects"


def test_separation_null_finds_planted_groups_and_refuses_empty_comparisons():
    rng = np.random.default_rng(4)
    labels = [str(index // 4) for index in range(12)]
    found = separation_null(planted((4, 4, 4), 0.2, 0.0, 0.05, rng), labels, draws=500)
    assert found.p_value <= 0.01
    assert found.observed == pytest.approx(0.2, abs=0.05)
    assert abs(found.mean) < 0.02
    with pytest.raises(ConfigError, match="no pair to compare"):
        separation_null(np.eye(3), ["a", "b", "c"])


def test_nearest_base_is_calibrated_on_strangers():
    rng = np.random.default_rng(5)
    verdicts, p_values = [], []
    for _ in range(200):
        models = [normal(rng, 1.0, SMALL) for _ in range(3)]
        raw = np.array([np.stack(t) @ np.stack(t).T for t in zip(*models, strict=True)])
        sums = np.array([np.stack(t).sum(axis=1) for t in zip(*models, strict=True)])
        found = nearest(raw, sums, np.array(SMALL), 2, [0, 1])
        verdicts.append(found.related)
        p_values.append(found.p_value)
        assert found.null_distance == pytest.approx(np.sqrt(2), abs=0.15)
    assert not any(verdicts)
    count, _, high = _rejections(p_values, 0.05)
    assert count <= high


def test_nearest_base_is_found_among_several():
    rng = np.random.default_rng(6)
    bases = [normal(rng, 1.0) for _ in range(3)]
    child = plus(bases[1], normal(rng, 0.2))
    models = [*bases, child]
    raw = np.array([np.stack(t) @ np.stack(t).T for t in zip(*models, strict=True)])
    sums = np.array([np.stack(t).sum(axis=1) for t in zip(*models, strict=True)])
    sizes = np.array([len(tensor) for tensor in child])
    found = nearest(raw, sums, sizes, 3, [0, 1, 2, 3])
    assert found.base == 1
    assert found.related
    assert found.correlation == pytest.approx(1 / np.sqrt(1.04), abs=0.01)
    assert found.distance == pytest.approx(0.2 / np.sqrt(1.04), abs=0.01)
    assert found.margin > 4
    with pytest.raises(ConfigError, match="no candidate base"):
        nearest(raw, sums, sizes, 3, [3])
