import numpy as np
import pytest
from planted import codes, dense, noisy, stream
from scipy.optimize import linear_sum_assignment

from heredity.features import tables
from heredity.features.correlate import Candidates, correlate
from heredity.features.l0 import unequal_l0
from heredity.features.lineage import Lineage
from heredity.features.matching_table import matching_table
from heredity.features.matchings import NAMES, hungarian, match, mutual
from heredity.features.nulls import Floor, false_discovery, floor, rearranged, shifted
from heredity.features.resample import Documents
from heredity.features.verdicts import Tracking
from heredity.seeds import generator

N = 60
FAST = Tracking(resamples=40)


@pytest.fixture(scope="module")
def tokens():
    return stream(documents=12)


@pytest.fixture(scope="module")
def family(tokens):
    """0–39 kept, 40–49 become one latent each two of them, 50–59 lost."""
    base = dense(tokens, N, seed=1)
    child = noisy(base, 0.1, 2)
    child[:, 40:45] = base[:, 40:45] * 3 + base[:, 45:50]  # nearer to the first of the two
    child[:, 45:] = dense(tokens, 15, seed=3)
    seeds = {"base": base, "child": child[:, ::-1]}
    return {
        name: [codes(v, tokens, name, 0), codes(noisy(v, 0.1, 10 + i), tokens, name, 1)]
        for i, (name, v) in enumerate(seeds.items())
    }


@pytest.fixture(scope="module")
def lineage(family, tokens):
    return Lineage(family, [("base", "child")], tokens, FAST, seed=0)


def candidates(r: np.ndarray, top: int) -> Candidates:
    order = np.argsort(-r, axis=1, kind="stable")[:, :top]
    score = np.take_along_axis(r, order, axis=1)
    there = score > 0
    return Candidates(
        np.where(there, order, -1).astype(np.int32), np.where(there, score, 0.0), np.where(there, 99, 0)
    )


@pytest.mark.parametrize("shape", [(12, 12), (9, 14), (14, 9)])
@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_dense_one(shape, seed):
    draw = generator(seed, "r")
    r = draw.random(shape) * (draw.random(shape) < 0.4)
    found = hungarian(candidates(r, shape[1]), candidates(r.T, shape[0]), 50, 0.3)
    worth = np.where(r >= 0.3, r, 0.0)
    rows, columns = linear_sum_assignment(-worth)
    assert found.r.sum() == pytest.approx(worth[rows, columns].sum())
    own = np.flatnonzero(found.partner >= 0)
    np.testing.assert_allclose(found.r[own], r[own, found.partner[own]])
    assert len(np.unique(found.partner[own])) == len(own)
    assert (found.r[own] >= 0.3).all()


def test_pairs_that_hardly_fire_together_are_no_candidates():
    r = np.array([[0.9, 0.5], [0.0, 0.8]])
    forward, backward = candidates(r, 2), candidates(r.T, 2)
    forward.joint[0, 0] = backward.joint[0, 0] = 49
    for name in NAMES:
        found = match(name, forward, backward, min_joint=50, least=0.3)
        assert found.partner[0] != 0
    np.testing.assert_array_equal(hungarian(forward, backward, 50, 0.3).partner, [-1, 1])
    np.testing.assert_array_equal(mutual(forward, backward, 50).partner, [-1, 1])
    np.testing.assert_array_equal(hungarian(forward, backward, 1000, 0.3).partner, [-1, -1])


def test_matchings_recover_what_was_planted(lineage):
    both = lineage.comparison("base", 0, "child", 0)
    there, back = both.parent.candidates, both.child.candidates
    found = {name: match(name, there, back, min_joint=50, least=0.3) for name in NAMES}
    for one in found.values():
        np.testing.assert_array_equal(one.partner[:45], N - 1 - np.arange(45))  # renamed
    for name in ("mutual", "hungarian"):
        assert (found[name].partner[45:] == -1).all()  # each has a partner that prefers another
        back_again = found[name].reversed(N)
        np.testing.assert_array_equal(back_again.partner[N - 1 - np.arange(45)], np.arange(45))
    assert (found["best"].partner[45:50] == N - 1 - np.arange(40, 45)).all()


def test_every_matching_has_floor_ceiling_and_false_discoveries(lineage):
    rows = np.eye(N)
    made = matching_table(lineage, {"base": [rows, rows], "child": [rows[::-1], rows[::-1]]})
    at = made.filter(tau=0.8)
    assert at["matching"].to_list() == list(NAMES)
    np.testing.assert_allclose(at["persist"], 45 / N)
    np.testing.assert_allclose(at["ceiling"], 1)
    assert at["floor"].max() < 0.01
    assert at["fdr"].max() < 0.01
    assert (at["fdr_high"] > 0).all()
    np.testing.assert_allclose(at["decoder_cosine_median"], 1)
    np.testing.assert_allclose(at["decoder_cosine_null"], 0)  # the rows of an identity, dealt out anew
    for name in NAMES:
        curve = made.filter(matching=name)
        assert curve["persist"].to_list() == sorted(curve["persist"], reverse=True)
        assert (curve["persist_min"] <= curve["persist"]).all()
    edge = tables.edge_tables(lineage)
    best = made.filter(matching="best")
    assert best["persist"].to_list() == pytest.approx(edge["tau_curve"]["persist"].to_list())
    assert best["fdr"].to_list() == edge["tau_curve"]["fdr"].to_list()
    assert edge["edges"]["fdr"].item() == at["fdr"][0]
    low = made.filter(tau=0.3).select("matching", "floor").rows()
    assert [share for _, share in low] == sorted((share for _, share in low), reverse=True)


def test_partners_dealt_out_anew_keep_what_all_rows_have_in_common(lineage):
    common = np.eye(N) + 3
    made = matching_table(lineage, {"base": [common, common], "child": [common[::-1], common[::-1]]})
    at = made.filter(tau=0.8)
    np.testing.assert_allclose(at["decoder_cosine_median"], 1)
    between = (9 * N + 6) / (9 * N + 7)  # of two different rows
    np.testing.assert_allclose(at["decoder_cosine_null"], between)
    again = matching_table(lineage, {"base": [common, common], "child": [common[::-1], common[::-1]]})
    assert made.equals(again)


def test_false_discoveries_are_the_floor_over_what_is_found():
    curves = np.array([[0.3, 0.1, 0.0], [0.1, 0.1, 0.0]])
    chance = Floor(curves, {}, np.zeros(300), np.zeros(2))
    rate, high = false_discovery(np.array([0.8, 0.05, 0.0]), chance)
    np.testing.assert_allclose(rate[:2], [0.25, 1.0])
    assert np.isnan(rate[2])
    np.testing.assert_allclose(high[0], 3 / 300 / 0.8)
    assert np.isnan(high[2])
    drawn = np.tile([0.8, 0.05, 0.0], (10, 1)), np.tile([0.3, 0.1, 0.0], (10, 1))
    np.testing.assert_allclose(false_discovery(np.array([0.8, 0.05, 0.0]), chance, drawn)[1][0], 0.375)


def test_what_is_found_in_noise_is_called_false(tokens):
    own = [codes(dense(tokens, 40, rate=0.1, seed=s), tokens, name, 0) for s, name in enumerate("ab")]
    easy = Tracking(tau=0.3, split_tau=0.3, resamples=40)
    one = Lineage({"a": own[:1], "b": own[1:]}, [("a", "b")], tokens, easy, seed=0)
    curve = tables.edge_tables(one)["tau_curve"]
    assert (curve["persist"] == 0).all()
    assert curve["fdr"].null_count() == curve.height


def test_rearranged_latents_stand_where_they_were_put(family, tokens):
    one = family["base"][0]
    beside = shifted(Documents.of(tokens), 32, generator(0, "shift"))
    some = rearranged(one, np.array([3, 50]), beside)
    whole = np.zeros((tokens.n_tokens, 2), np.float32)
    for n, latent in enumerate((3, 50)):
        where, values = one.of_latent(latent)
        whole[beside[where], n] = values
    again = codes(whole, tokens)
    for got, want in zip(some._arrays(), again._arrays(), strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_floor_orders_the_matchings(family, tokens):
    chance = floor(
        family["base"], family["base"], Documents.of(tokens), Tracking(floor_share=1.0), seed=0, name="all"
    )
    assert (chance.one_to_one["mutual"] <= chance.curves).all()
    assert (chance.one_to_one["hungarian"] <= chance.curves).all()
    everything = correlate(family["base"][0], family["base"][1], top=8)
    assert match("mutual", everything.forward, everything.backward, min_joint=50, least=0.3).r.min() > 0.9


def test_unequal_l0_names_the_two_furthest_apart():
    assert unequal_l0({"a": 30.0, "b": 36.0}) == []
    assert unequal_l0({}) == []
    [line] = unequal_l0({"topk 0": 32.0, "l1 0": 61.5, "topk 1": 30.0})
    assert "30.0 (topk 1) and 61.5 (l1 0)" in line


def test_at_each_tau_partners_are_dealt_among_what_is_matched_there(lineage):
    """What two rows have in common differs between the latents matched at 0.8 and the others."""
    rows = np.eye(N)
    rows[:45] += 3
    made = matching_table(lineage, {"base": [rows, rows], "child": [rows[::-1], rows[::-1]]})
    at = made.filter(tau=0.8, matching="best")
    assert made.filter(tau=0.3, matching="best")["persist"].item() > at["persist"].item()
    between = (9 * N + 6) / (9 * N + 7)
    np.testing.assert_allclose(at["decoder_cosine_null"], between)
