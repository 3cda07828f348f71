"""Clusters: planted ones, the authors' own matrices, and what makes the procedure fail."""

from pathlib import Path

import numpy as np
import pytest
from planted_weights import planted

from heredity.errors import ConfigError
from heredity.geometry import read_matrix
from heredity.geometry.agreement import agreement, silhouette
from heredity.geometry.clusters import affinity_of_distances, cluster, eigengap
from heredity.geometry.similarity import chord

AUTHORS = Path(__file__).parents[2].parent / "shared" / "data" / "region"
authors = pytest.mark.skipif(not AUTHORS.exists(), reason=f"the authors' matrices are not at {AUTHORS}")
WITHOUT = {14: (), 12: ("7", "10"), 11: ("7", "10", "13")}  # without WNLI and COPA, and without WSC


def _authors(kind, count):
    matrix = read_matrix(AUTHORS / f"{kind}_70.csv")
    return matrix.select([n for n in matrix.names if n.split("_")[-1] not in WITHOUT[count]])


@authors
@pytest.mark.parametrize(("count", "accuracy"), [(14, 0.886), (12, 0.983), (11, 1.000)])
def test_the_authors_matrices_give_the_papers_numbers(count, accuracy):
    matrix = _authors("cosine", count)
    found = cluster(matrix, count)
    assert agreement(found.labels, matrix.labels("data")).accuracy == pytest.approx(accuracy, abs=5e-4)
    assert found.eigengap_k == count
    assert found.notes == ()


@authors
@pytest.mark.parametrize(("count", "accuracy"), [(14, 0.30), (12, 0.28)])
def test_euclidean_distance_fails_on_the_same_models(count, accuracy):
    matrix = _authors("squared_euclidean", count)
    made = affinity_of_distances(matrix)
    assert "median" in made.rule  # exp(−D²/2) underflows: the fallback is used, and said
    found = cluster(made.values, count)
    assert agreement(found.labels, matrix.labels("data")).accuracy == pytest.approx(accuracy, abs=5e-3)


def _like_the_authors(seed):
    """Task vectors of 12 data sets × 5 seeds: directions by data set, lengths by training."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(12), 5)
    directions = rng.normal(0, 1, (12, 4000))
    vectors = np.sqrt(0.2) * directions[labels] + np.sqrt(0.8) * rng.normal(0, 1, (60, 4000))
    lengths = np.exp(rng.normal(2.6, 1.0, 12))[labels] * rng.uniform(0.9, 1.1, 60)
    vectors *= (lengths / np.linalg.norm(vectors, axis=1))[:, None]
    return vectors, labels


def test_cosine_finds_data_sets_and_euclidean_finds_training_length():
    vectors, labels = _like_the_authors(0)
    inner = vectors @ vectors.T
    norms = np.sqrt(np.diagonal(inner))
    by_cosine = cluster(inner / np.outer(norms, norms), 12)
    squares = norms[:, None] ** 2 + norms[None, :] ** 2 - 2 * inner
    made = affinity_of_distances(squares)
    by_distance = cluster(made.values, 12)
    assert agreement(by_cosine.labels, labels).accuracy >= 0.98
    assert agreement(by_distance.labels, labels).accuracy <= 0.5
    assert "1 − D/max(D)" in made.rule


@pytest.mark.parametrize("groups", [(5, 5, 5, 5), (3,) * 6, (10, 4, 4), (15, 5), (2, 2, 2)])
@pytest.mark.parametrize("between", [-0.05, 0.0, 0.3])
@pytest.mark.parametrize("method", ["spectral", "average", "complete"])
def test_planted_clusters_are_recovered_and_counted(groups, between, method):
    matrix = planted(groups, between + 0.4, between, 0.02, np.random.default_rng(len(groups)))
    truth = np.repeat(np.arange(len(groups)), groups)
    found = cluster(matrix, method=method)
    assert found.k == found.eigengap_k == len(groups)
    assert agreement(found.labels, truth).accuracy == 1.0


def test_without_groups_the_eigengap_says_one():
    rng = np.random.default_rng(0)
    assert eigengap(planted((1,) * 20, 0.0, 0.0, 0.02, rng)) == 1
    assert eigengap(planted((20,), 0.5, 0.5, 0.02, rng)) == 1
    assert eigengap(np.eye(3)) == 1


def test_labels_are_numbered_by_appearance_and_are_the_same_each_time():
    matrix = planted((4, 4), 0.6, 0.0, 0.02, np.random.default_rng(0))
    first = cluster(matrix, 2)
    np.testing.assert_array_equal(first.labels, [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(first.labels, cluster(matrix, 2).labels)


def test_one_cluster_and_one_each():
    matrix = planted((2, 2), 0.6, 0.0, 0.02, np.random.default_rng(0))
    np.testing.assert_array_equal(cluster(matrix, 1).labels, [0, 0, 0, 0])
    np.testing.assert_array_equal(cluster(matrix, 4).labels, [0, 1, 2, 3])
    with pytest.raises(ConfigError, match="k = 5 clusters of 4 models"):
        cluster(matrix, 5)


def test_a_graph_in_pieces_is_noted_not_hidden():
    blocks = np.kron(np.eye(2), np.ones((3, 3)))
    assert any("not fully connected" in note for note in cluster(blocks, 2).notes)


def test_silhouette_is_high_for_tight_groups_and_undefined_without_groups():
    distances = chord(planted((4, 4), 0.9, 0.0, 0.01, np.random.default_rng(0)))
    assert silhouette(distances, np.repeat([0, 1], 4)) > 0.6
    assert np.isnan(silhouette(distances, np.arange(8)))
