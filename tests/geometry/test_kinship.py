"""Model kinship against its formulas on the vectors."""

import numpy as np
import pytest

from heredity.errors import ConfigError
from heredity.geometry.kinship import VARIANTS, kinship, matrix


def test_three_variants_by_hand():
    x = np.random.default_rng(0).normal(0.2, 1.0, (4, 300))
    inner, sums = x @ x.T, x.sum(axis=1)
    upper = np.triu_indices(4, 1)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = {
        "pearson": np.corrcoef(x)[upper].mean(),
        "cosine": (unit @ unit.T)[upper].mean(),
        "euclidean": np.linalg.norm(x[:, None] - x[None], axis=-1)[upper].mean(),
    }
    assert tuple(expected) == VARIANTS
    for variant, value in expected.items():
        assert kinship(matrix(inner, variant, sums=sums, size=300)) == pytest.approx(value)


def test_of_one_model_is_unknown_and_pearson_needs_sums():
    assert np.isnan(kinship(np.ones((1, 1))))
    with pytest.raises(ConfigError, match="pearson kinship needs"):
        matrix(np.eye(2), "pearson")
