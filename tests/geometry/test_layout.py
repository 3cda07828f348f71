"""PCoA against points whose distances it is given, and how it says that a plane is not enough."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heredity.errors import ConfigError
from heredity.geometry.layout import pcoa


def _distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


@given(st.integers(0, 10_000), st.integers(4, 12))
def test_points_of_a_plane_come_back(seed, n):
    points = np.random.default_rng(seed).normal(0, 1, (n, 2))
    drawn = pcoa(_distances(points))
    np.testing.assert_allclose(_distances(drawn.coordinates), _distances(points), atol=1e-6)
    assert drawn.stress < 1e-6
    assert drawn.trustworthiness == pytest.approx(1.0)
    assert drawn.explained.sum() == pytest.approx(1.0)
    assert drawn.explained[0] >= drawn.explained[1]


def test_many_dimensions_leave_stress_by_its_own_formula():
    points = np.random.default_rng(0).normal(0, 1, (20, 10))
    truth = _distances(points)
    drawn = pcoa(truth)
    flat = _distances(drawn.coordinates)
    upper = np.triu_indices(20, 1)
    expected = np.sqrt(((truth - flat)[upper] ** 2).sum() / (truth[upper] ** 2).sum())
    assert drawn.stress == pytest.approx(expected)
    assert drawn.stress > 0.2
    assert drawn.trustworthiness < 0.95


def test_few_models_and_copies_are_drawn_without_a_claim():
    two = pcoa(np.array([[0.0, 3.0], [3.0, 0.0]]))
    np.testing.assert_allclose(np.abs(two.coordinates[:, 0]), 1.5)
    assert np.isnan(two.trustworthiness)
    assert two.neighbours == 0
    one = pcoa(np.zeros((1, 1)))
    np.testing.assert_array_equal(one.coordinates, [[0.0, 0.0]])
    assert one.stress == 0.0
    copies = pcoa(np.zeros((5, 5)))
    np.testing.assert_array_equal(copies.coordinates, np.zeros((5, 2)))


def test_the_sign_of_an_axis_is_settled():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 1.0], [2.0, 2.0]])
    drawn = pcoa(_distances(points))
    farthest = np.abs(drawn.coordinates).argmax(axis=0)
    assert (drawn.coordinates[farthest, [0, 1]] > 0).all()


def test_a_bad_matrix_is_refused():
    with pytest.raises(ConfigError, match="shape"):
        pcoa(np.zeros((2, 3)))
