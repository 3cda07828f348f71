import numpy as np
import pytest
import torch

from heredity.features import selection
from heredity.features.product import by_rows
from heredity.features.selection import Layer, fastest_dtype, largest_of
from heredity.kernels import nominate
from heredity.seeds import generator


def encoder(d_in=40, d_sae=600, *, seed=0, uneven=1.0):
    draw = generator(seed, "encoder")
    rows = draw.standard_normal((d_sae, d_in)) / d_in**0.5 * np.exp(uneven * draw.standard_normal((d_sae, 1)))
    bias = 0.3 * draw.standard_normal(d_sae)
    return Layer(torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(bias.astype(np.float32)))


def inputs(n=700, d_in=40, seed=1):
    return torch.from_numpy(generator(seed, "inputs").standard_normal((n, d_in)).astype(np.float32))


def oracle(x, layer, k, names=None):
    """Which entries are positive and among the k largest of their row, and their values, in float64."""
    pre = x.double().numpy() @ layer.rows.double().numpy().T + layer.bias.double().numpy()
    names = np.arange(pre.shape[1]) if names is None else names
    kept = np.zeros_like(pre)
    order = np.argsort(-pre[:, names], axis=1)[:, :k]
    np.put_along_axis(kept, names[order], np.maximum(np.take_along_axis(pre, names[order], 1), 0), 1)
    return kept


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("k", [1, 7, 64, 600])
def test_the_largest_entries_and_the_largest_among_some(dtype, k, monkeypatch):
    monkeypatch.setattr(selection, "chunk_tokens", lambda d_sae: 128)  # several chunks, the last one short
    layer, x, some = encoder(), inputs(), np.flatnonzero(np.arange(600) % 5 == 2)
    codes, others = largest_of(x, layer, k, dtype=dtype, others=some, other_k=9)
    for found, want in ((codes, oracle(x, layer, k)), (others, oracle(x, layer, 9, some))):
        np.testing.assert_array_equal(found.dense(600) > 0, want > 0)
        np.testing.assert_allclose(found.dense(600), want, atol=2e-5)
        for token in range(found.n_tokens):
            assert (np.diff(found.indices[found.indptr[token] : found.indptr[token + 1]]) > 0).all()


def test_of_equal_entries_the_first_are_kept():
    layer = Layer(torch.ones(90, 4), torch.zeros(90))
    for dtype in ("float32", "bfloat16"):
        codes, none = largest_of(torch.ones(3, 4), layer, 5, dtype=dtype)
        np.testing.assert_array_equal(codes.indices.reshape(3, 5), np.tile(np.arange(5), (3, 1)))
        assert none is None


def test_nothing_positive_is_nothing():
    layer = Layer(torch.ones(50, 4), torch.full((50,), -9.0))
    for dtype in ("float32", "bfloat16"):
        codes, _ = largest_of(torch.ones(300, 4), layer, 5, dtype=dtype)
        assert len(codes.values) == 0
        assert codes.n_tokens == 300


@pytest.fixture
def nominated(monkeypatch):
    """Collect how many entries of each token were computed in float32."""
    counts, kernel = [], nominate.top_rows

    def spied(*arguments):
        kernel(*arguments)
        counts.append(arguments[-1].copy())

    monkeypatch.setattr(nominate, "top_rows", spied)
    return counts


def test_few_are_computed_in_float32(nominated):
    largest_of(inputs(200, 256), encoder(256, 4096, uneven=0.3), 32, dtype="bfloat16")
    assert 32 <= np.concatenate(nominated).mean() < 80


def test_a_product_outside_its_bound_is_not_trusted(nominated, monkeypatch):
    """With every bound made 0, the rounding of the product alone must be noticed."""
    measured = selection._measured
    monkeypatch.setattr(selection, "_measured", lambda *rows: (measured(*rows)[0], 0 * measured(*rows)[1]))
    layer, x = encoder(), inputs()
    codes, _ = largest_of(x, layer, 7, dtype="bfloat16")
    assert np.concatenate(nominated).min() == -1
    np.testing.assert_array_equal(codes.dense(600) > 0, oracle(x, layer, 7) > 0)


def test_bounds_hold_for_hostile_numbers():
    """Rows of very different sizes, cancelling sums, large offsets."""
    layer, x = encoder(uneven=4.0), inputs()
    rows = layer.rows.clone()
    rows[:, ::2] = -rows[:, 1::2] * 1.003
    x[:, ::2] = x[:, 1::2] + 100
    x[:, 1::2] += 100
    layer = Layer(rows, 50 * layer.bias)
    a, _ = largest_of(x, layer, 12)
    b, _ = largest_of(x, layer, 12, dtype="bfloat16")
    same = (a.dense(600) > 0) == (b.dense(600) > 0)
    cut = np.where(a.dense(600) > 0, a.dense(600), np.inf).min(axis=1, keepdims=True)
    np.testing.assert_allclose(
        np.maximum(a.dense(600), b.dense(600))[~same], np.broadcast_to(cut, same.shape)[~same], rtol=1e-4
    )
    assert same.mean() > 0.999


def test_a_trial_names_a_dtype():
    assert fastest_dtype(16, 64, 4) in ("float32", "bfloat16")


@pytest.mark.parametrize(("n", "m", "d"), [(0, 3, 4), (5, 3, 4), (300, 70, 33)])
def test_the_product_is_the_product(n, m, d):
    x, rows, bias = inputs(n, d), inputs(m, d, 2), inputs(m, 1, 3)[:, 0]
    want = x.double() @ rows.double().T
    np.testing.assert_allclose(by_rows(x, rows), want, atol=1e-4)
    np.testing.assert_allclose(by_rows(x, rows, bias), want + bias.double(), atol=1e-4)
    views = by_rows(x.T.contiguous().T, rows.T.contiguous().T, bias)
    np.testing.assert_allclose(views, want + bias.double(), atol=1e-4)
