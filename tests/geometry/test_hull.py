"""Distances to a centroid and a hull: brute force over faces, and points planted inside and outside."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heredity.errors import ConfigError
from heredity.geometry.hull import distances, nearest_to_origin


def _brute_force(points):
    """Least norm over the convex hull: try the affine minimum of every subset of points."""
    best = np.inf
    for size in range(1, len(points) + 1):
        for face in combinations(range(len(points)), size):
            chosen = points[list(face)]
            system = np.block(
                [[chosen @ chosen.T, np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]]
            )
            weights = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0][:size]
            if (weights >= -1e-9).all():
                best = min(best, float(np.linalg.norm(weights @ chosen)))
    return best


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 4), st.floats(0.0, 3.0))
def test_exact_against_every_face(seed, count, dimension, shift):
    points = np.random.default_rng(seed).normal(0, 1, (count, dimension)) + shift
    weights = nearest_to_origin(points @ points.T)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1.0)
    assert np.linalg.norm(weights @ points) == pytest.approx(_brute_force(points), abs=1e-6)


@given(st.integers(0, 10_000))
def test_no_point_of_the_hull_is_nearer(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(0.5, 1, (20, 60))
    weights = nearest_to_origin(points @ points.T)
    nearest = weights @ points
    assert (points @ nearest >= nearest @ nearest - 1e-9 * np.abs(points @ points.T).max()).all()


def test_inside_outside_and_copies():
    rng = np.random.default_rng(0)
    group = rng.normal(0, 1, (5, 100))
    inside = np.array([0.1, 0.4, 0.2, 0.3, 0.0]) @ group
    beyond = group[0] + 2 * (group[0] - group.mean(axis=0))
    models = np.stack([*group, inside, beyond, group[2]])
    inner = models @ models.T
    members = [0, 1, 2, 3, 4]
    at_inside = distances(inner, 5, members)
    assert at_inside.hull == pytest.approx(0.0, abs=1e-5)
    np.testing.assert_allclose(at_inside.coefficients, [0.1, 0.4, 0.2, 0.3, 0.0], atol=1e-6)
    at_beyond = distances(inner, 6, members)
    assert at_beyond.hull == pytest.approx(np.linalg.norm(beyond - group[0]), rel=1e-6)
    assert at_beyond.centroid == pytest.approx(np.linalg.norm(beyond - group.mean(axis=0)))
    assert at_beyond.spread == pytest.approx(
        np.sqrt(np.mean(np.linalg.norm(group - group.mean(axis=0), axis=1) ** 2))
    )
    assert distances(inner, 7, members).hull == pytest.approx(0.0, abs=1e-5)


def test_a_member_is_measured_against_the_others():
    group = np.random.default_rng(1).normal(0, 1, (4, 50))
    found = distances(group @ group.T, 0, [0, 1, 2, 3])
    assert len(found.coefficients) == 3
    assert found.hull > 5  # independent directions: outside the hull of the others
    with pytest.raises(ConfigError, match="without another member"):
        distances(group @ group.T, 0, [0])
