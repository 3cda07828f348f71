"""The five measures against NumPy on the vectors themselves, and the mixed-dtype trap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_weights import bf16, gram, normal, plus, products, times

from heredity.errors import ConfigError
from heredity.geometry.nulls import relatedness
from heredity.geometry.similarity import MEASURES, between, centre, chord, cosine, separation


def _vectors(seed, k=5, n=400):
    return np.random.default_rng(seed).normal(0.3, 1.0, (k, n))


@given(st.integers(0, 10_000))
def test_every_measure_against_numpy(seed):
    x = _vectors(seed)
    inner, sums = x @ x.T, x.sum(axis=1)
    norms = np.linalg.norm(x, axis=1)
    oracle = {
        "cosine": inner / np.outer(norms, norms),
        "|cosine|": np.abs(inner / np.outer(norms, norms)),
        "pearson": np.corrcoef(x),
        "l2": np.linalg.norm(x[:, None] - x[None], axis=-1),
        "relative": np.linalg.norm(x[:, None] - x[None], axis=-1) / 7.0,
    }
    for measure in MEASURES:
        found = between(inner, measure, sums=sums, size=x.shape[1], reference_norm=7.0)
        np.testing.assert_allclose(found, oracle[measure], atol=1e-6)


@given(st.integers(0, 10_000), st.floats(0.1, 10.0))
def test_cosine_ignores_scale_and_turns_with_the_sign(seed, factor):
    x = _vectors(seed, k=2)
    y = np.stack([x[0], factor * x[1], -x[1]])
    found = cosine(y @ y.T)
    assert found[0, 1] == pytest.approx(cosine(x @ x.T)[0, 1], abs=1e-12)
    assert found[0, 2] == pytest.approx(-found[0, 1], abs=1e-12)
    assert found[1, 2] == pytest.approx(-1.0)


def test_a_model_that_did_not_move_has_no_direction():
    x = np.array([[0.0, 0.0], [1.0, 2.0]])
    np.testing.assert_array_equal(cosine(x @ x.T), [[0.0, 0.0], [0.0, 1.0]])


def test_chord_is_the_distance_of_directions():
    x = _vectors(3)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(
        chord(cosine(x @ x.T)), np.linalg.norm(unit[:, None] - unit[None], axis=-1), atol=1e-7
    )


def test_missing_ingredients_are_named():
    with pytest.raises(ConfigError, match="pearson needs"):
        between(np.eye(2), "pearson")
    with pytest.raises(ConfigError, match="relative distance needs"):
        between(np.eye(2), "relative")
    with pytest.raises(ConfigError, match="unknown measure 'cos'"):
        between(np.eye(2), "cos")


@pytest.mark.parametrize("k", [3, 6, 12])
def test_independent_members_have_cosine_minus_one_over_k_minus_one_after_centring(k):
    x = np.random.default_rng(k).normal(0, 1, (k, 200_000))
    found = cosine(centre(x @ x.T))[np.triu_indices(k, 1)]
    np.testing.assert_allclose(found, -1 / (k - 1), atol=0.01)


def test_centre_is_the_gram_of_centred_vectors():
    x = _vectors(1)
    y = x - x.mean(axis=0)
    np.testing.assert_allclose(centre(x @ x.T), y @ y.T, atol=1e-9)


@pytest.mark.parametrize("scale", [3e-4, 1e-3])
def test_mixed_dtypes_fake_kinship_and_centring_mends_it(scale):
    rng = np.random.default_rng(0)
    base = [tensor.astype(np.float32).astype(np.float64) for tensor in normal(rng, 1.0)]
    shared = [normal(rng, scale * np.sqrt(0.5)) for _ in range(3)]
    members = [plus(base, part, normal(rng, scale * np.sqrt(0.5))) for part in shared for _ in range(3)]
    labels = np.repeat(np.arange(3), 3)

    def gap(models):
        inner, _, _ = products(base, models)
        within, apart = separation(cosine(inner.sum(axis=0)[1:, 1:]), labels)
        centred, centred_apart = separation(cosine(centre(inner.sum(axis=0)[1:, 1:])), labels)
        return apart, within - apart, centred - centred_apart

    true_apart, true_gap, true_centred = gap(members)
    mixed_apart, mixed_gap, mixed_centred = gap([bf16(member) for member in members])
    assert abs(true_apart) < 0.02
    assert mixed_apart > 0.2, "unrelated models look like kin"
    assert mixed_gap < 0.75 * true_gap
    assert mixed_centred > 0.5 * true_gap, "centring brings back at least half of the gap"
    assert true_centred > 0.9 * true_gap


def test_shared_rounding_is_significant_too_so_no_null_replaces_the_warning():
    rng = np.random.default_rng(1)
    base = [tensor.astype(np.float32).astype(np.float64) for tensor in normal(rng, 1.0)]
    strangers = [bf16(plus(base, normal(rng, 3e-4))) for _ in range(2)]
    inner, sums, sizes = products(base, strangers)
    correlation, _, p_value = relatedness(inner[:, 1:, 1:], sums[:, 1:], sizes)
    assert correlation[0, 1] > 0.6
    assert p_value[0, 1] < 1e-6


def test_equal_weight_keeps_a_large_tensor_from_deciding():
    rng = np.random.default_rng(2)
    base = normal(rng, 1.0)
    loud = normal(rng, 1.0)[0]
    members = {}
    for name, sign in (("a", 1.0), ("b", -1.0)):
        step = normal(rng, 0.01)
        step[0] = 0.5 * loud  # the embedding moves alike and far in both
        step[1:] = [sign * t for t in times(1.0, normal(np.random.default_rng(7), 0.01))[1:]]
        members[name] = plus(base, step)
    measured = gram(base, members)
    plain = cosine(measured.total("all")["all"].deltas)[0, 1]
    equal = cosine(measured.total("all", equal_weight=True)["all"].deltas)[0, 1]
    assert plain > 0.9
    assert equal == pytest.approx(-0.5, abs=0.01)  # one tensor alike, three opposite
