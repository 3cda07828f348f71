import numpy as np
import pytest
from planted import codes, dense, stream

from heredity.errors import MismatchError
from heredity.features import correlate as module
from heredity.features.codes import Codes
from heredity.features.correlate import best_against, correlate, dense_is_faster, identity


@pytest.fixture(scope="module")
def pair():
    tokens = stream(documents=4)
    a = dense(tokens, 40, rate=0.1, seed=1)
    b = np.concatenate([a[:, 10:30] * dense(tokens, 20, rate=0.7, seed=2), dense(tokens, 25, seed=3)], axis=1)
    b[:, 7] = 0
    return a, b, codes(a, tokens), codes(b, tokens, "child"), tokens


def oracle(a, b):
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(a.astype(np.float64).T, b.astype(np.float64).T)[: a.shape[1], a.shape[1] :]
    return np.nan_to_num(r)


def test_equals_numpy_on_both_sides(pair):
    a, b, ca, cb, _ = pair
    want, got = oracle(a, b), correlate(ca, cb, top=5, threshold=0.3)
    for r, side in ((want, got.forward), (want.T, got.backward)):
        best = -np.sort(-r, axis=1)[:, :5]
        np.testing.assert_allclose(side.r, np.maximum(best, 0), atol=1e-9)
        rows, places = np.nonzero(side.latent >= 0)
        np.testing.assert_allclose(r[rows, side.latent[rows, places]], side.r[rows, places], atol=1e-9)


def test_lists_every_pair_from_the_threshold_with_joint_firings(pair):
    a, b, ca, cb, _ = pair
    want, got = oracle(a, b), correlate(ca, cb, top=2, threshold=0.2)
    first, second = np.nonzero(want >= 0.2)
    np.testing.assert_array_equal(got.first, first)
    np.testing.assert_array_equal(got.second, second)
    np.testing.assert_allclose(got.r, want[first, second], atol=1e-9)
    np.testing.assert_array_equal(got.joint, ((a[:, first] > 0) & (b[:, second] > 0)).sum(axis=0))
    joint = ((a[:, :, None] > 0) & (b[:, None, :] > 0)).sum(axis=0)
    rows, places = np.nonzero(got.forward.latent >= 0)
    np.testing.assert_array_equal(
        got.forward.joint[rows, places], joint[rows, got.forward.latent[rows, places]]
    )


def test_a_rearranged_side_is_the_rearranged_matrix(pair):
    a, b, ca, cb, tokens = pair
    beside = np.roll(identity(tokens.n_tokens), 64)
    rows = np.array([3, 11, 20])
    best, match = best_against(ca, cb, rows, beside, top=3, min_joint=1, least=0.0)
    want = np.maximum(oracle(a, b[beside])[rows].max(axis=1), 0)
    np.testing.assert_allclose(best, want, atol=1e-9)
    np.testing.assert_allclose(match, want, atol=1e-9)
    _, none = best_against(ca, cb, rows, beside, top=3, min_joint=10**6, least=0.0)
    assert not none.any()


def test_codes_survive_the_disk(pair, tmp_path):
    _, b, _, cb, _ = pair
    cb.save(tmp_path / "codes")
    again = Codes.open(tmp_path / "codes")
    assert again.meta == cb.meta
    for one, two in zip(again._arrays(), cb._arrays(), strict=True):
        np.testing.assert_array_equal(one, two)
    token, value = again.of_latent(3)
    np.testing.assert_array_equal(token, np.flatnonzero(b[:, 3] > 0))
    np.testing.assert_array_equal(value, b[:, 3][b[:, 3] > 0])
    np.testing.assert_allclose(again.sums, b.sum(axis=0, dtype=np.float64))


def test_other_tokens_are_refused(pair):
    a, _, ca, _, _ = pair
    other = stream(documents=4, seed=9)
    with pytest.raises(MismatchError, match="different token streams"):
        correlate(ca, codes(a, other))


def test_dense_blocks_and_sparse_rows_agree(monkeypatch):
    tokens = stream(domains=("one",), documents=40, contexts=2)  # more than one block of 2048 tokens
    a = dense(tokens, 600, rate=0.2, seed=1)  # more than one block of 512 latents
    b = np.concatenate(
        [a[:, 100:400] * dense(tokens, 300, rate=0.8, seed=2), dense(tokens, 50, seed=3)], axis=1
    )
    b[:, 7] = 0
    ca, cb = codes(a, tokens), codes(b, tokens, "child")
    found, beside = {}, np.roll(identity(tokens.n_tokens), 64)
    for blocks in (False, True):
        monkeypatch.setattr(module, "dense_is_faster", lambda *_, blocks=blocks: blocks)
        rows = np.arange(5, 590, 3)
        found[blocks] = (
            correlate(ca, cb, top=5, threshold=0.05),
            best_against(ca, cb, rows, beside, top=3, min_joint=1, least=0.0),
        )
    (sparse, one), (blocked, two) = found[False], found[True]
    np.testing.assert_array_equal(blocked.first, sparse.first)
    np.testing.assert_array_equal(blocked.second, sparse.second)
    np.testing.assert_allclose(blocked.r, sparse.r, atol=1e-6)
    np.testing.assert_array_equal(blocked.joint, sparse.joint)
    for side in ("forward", "backward"):
        np.testing.assert_allclose(getattr(blocked, side).r, getattr(sparse, side).r, atol=1e-6)
    np.testing.assert_allclose(two, one, atol=1e-6)
    want = oracle(a, b)
    np.testing.assert_allclose(blocked.r, want[blocked.first, blocked.second], atol=1e-5)
    assert len(blocked.r) == (want >= 0.05).sum()


def test_dense_blocks_are_chosen_by_the_density_of_the_codes(monkeypatch):
    tokens = stream(documents=4)
    thick, thin = (codes(dense(tokens, 200, rate=rate, seed=1), tokens) for rate in (0.3, 0.01))
    assert not dense_is_faster(thick, thick)  # too small to matter
    monkeypatch.setattr(module, "_MANY", 0)
    assert dense_is_faster(thick, thick)
    assert not dense_is_faster(thin, thick)
    assert not dense_is_faster(thin, thin)


def test_more_pairs_than_there_was_room_for(pair, monkeypatch):
    _, _, ca, cb, _ = pair
    whole = correlate(ca, cb, top=2, threshold=0.01)
    monkeypatch.setattr(module, "_ROOM", 3)
    again = correlate(ca, cb, top=2, threshold=0.01)
    assert len(whole.r) > 10
    np.testing.assert_array_equal(again.first, whole.first)
    np.testing.assert_array_equal(again.r, whole.r)
    np.testing.assert_array_equal(again.backward.r, whole.backward.r)
