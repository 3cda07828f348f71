"""Latents planted at their own index, moved to another, replaced, silenced; and SAEs that share a start."""

import numpy as np
import polars as pl
import pytest
from planted import codes, dense, noisy, stream

from heredity.errors import ConfigError
from heredity.features.consensus_edges import ConsensusLineage
from heredity.features.correlate import paired
from heredity.features.identity import NEAR, identity_tables, meetings, places, strangers
from heredity.features.lineage import Lineage
from heredity.features.resample import Documents, Resampler
from heredity.features.tables import edge_tables
from heredity.features.verdicts import Tracking
from heredity.seeds import generator

N = 100
FAST = Tracking(resamples=40)


@pytest.fixture(scope="module")
def tokens():
    return stream()


@pytest.fixture(scope="module")
def values(tokens):
    """Of the parent's 100 latents: 0–59 stay, 60–79 change places in pairs, 80–94 are replaced, 95–99 fall silent."""
    parent = dense(tokens, N, seed=1)
    child = noisy(parent, 0.2, 2)
    swapped = np.arange(60, 80).reshape(-1, 2)[:, ::-1].reshape(-1)
    child[:, 60:80] = child[:, swapped]
    child[:, 80:95] = dense(tokens, 15, seed=3)
    child[:, 95:] = 0
    return parent, child


@pytest.fixture(scope="module")
def decoders():
    draw = generator(0, "decoders")
    parent = draw.normal(size=(N, 24))
    return {"parent": [parent, parent], "child": [2 * parent, parent]}


@pytest.fixture(scope="module")
def tables(values, tokens, decoders):
    parent, child = values
    members = {
        "parent": [codes(parent, tokens, "parent", 0), codes(dense(tokens, N, seed=5), tokens, "parent", 1)],
        "child": [codes(child, tokens, "child", 0), codes(dense(tokens, N, seed=6), tokens, "child", 1)],
    }
    lineage = Lineage(members, [("parent", "child")], tokens, FAST, seed=0, shared_start=True)
    moved = noisy(parent, 0.1, 4)
    moved[:, 90:] = dense(tokens, 10, seed=7)
    again = {"parent": [codes(moved, tokens, "parent", 0), members["parent"][1]]}
    return identity_tables(lineage, decoders, {"child": "parent"}, again, decoders)


def test_what_stays_at_its_index_is_told_from_what_moved_or_went(tables):
    row = tables["identity"].row(0, named=True)
    assert (row["seed"], row["through"], row["direct"], row["n_parent"]) == (0, "parent", True, N)
    assert row["kept"] == pytest.approx(0.60)
    assert row["best_at_index"] == pytest.approx(0.60)
    assert row["silent"] == pytest.approx(0.05)
    assert row["r_median"] > 0.9
    assert row["cosine_median"] == pytest.approx(1.0)
    assert row["kept_control"] == pytest.approx(0.90)
    assert row["kept_low"] <= row["kept"] <= row["kept_high"]


def test_strangers_keep_nothing(tables):
    row = tables["identity"].row(0, named=True)
    # Of those that changed places in pairs, one may be drawn for the other.
    assert row["kept_null"] < 0.01
    assert row["kept_null_p95"] <= 0.02
    assert row["best_at_index_null"] < 0.05
    assert abs(row["r_median_null"]) < 0.02
    assert abs(row["cosine_median_null"]) < 0.1
    assert row["n_draws"] == FAST.shifts


def test_each_latent_has_its_own_row(tables):
    rows = tables["identity_latents"].filter(seed=0)
    assert rows["latent"].to_list() == list(range(N))
    assert rows["kept"].to_list() == [True] * 60 + [False] * 40
    moved = rows.filter(pl.col("latent").is_between(60, 79))
    assert (moved["best_latent"] == (moved["latent"].to_numpy() ^ 1)).all()
    assert (rows["firings_child"].tail(5) == 0).all()
    assert (rows["r"].tail(5) == 0).all()


def test_a_latent_that_hardly_fires_with_its_own_index_is_not_kept(tokens):
    """Of its 60 firings the 45 high ones make r; with the child's latent it has those alone."""
    high, low = np.zeros((tokens.n_tokens, 1), np.float32), np.zeros((tokens.n_tokens, 1), np.float32)
    high[:45], low[45:60] = np.arange(5, 50)[:, None], 0.1
    parent, child = codes(high + low, tokens), codes(high, tokens)
    rows = np.eye(1)
    seen = places(parent, child, (rows, rows), np.zeros(1, np.int64), FAST)
    assert (seen.r[0] > 0.99, seen.joint[0], seen.kept[0]) == (True, 45, False)
    assert places(parent, parent, (rows, rows), np.zeros(1, np.int64), FAST).kept[0]


def test_an_edge_whose_starts_meet_further_up_has_no_control(related, tokens):
    members = {"a": related["parent"], "b": related["child"], "c": related["child"]}
    lineage = Lineage(members, [("a", "b"), ("b", "c")], tokens, FAST, seed=0, shared_start=True)
    rows = {name: [np.eye(40)] * 3 for name in members}
    table = identity_tables(lineage, rows, {"b": "a", "c": "a"}, members, rows)["identity"]
    assert table.select("through", "direct").unique(maintain_order=True).rows() == [("a", True), ("a", False)]
    assert table["kept"].to_list() == [1.0] * 6
    assert table["kept_control"].to_list() == [1.0] * 3 + [None] * 3


def test_an_unrelated_seed_keeps_nothing(tables):
    row = tables["identity"].row(1, named=True)
    assert row["kept"] == 0
    assert row["best_at_index"] < 0.1


def test_given_pairs_have_the_r_of_a_dense_oracle(values, tokens):
    parent, child = values
    draw = generator(0, "pairs")
    first, second = draw.integers(0, N, 50), draw.integers(0, N, 50)
    r, joint = paired(codes(parent, tokens), codes(child, tokens), first, second)
    for n, (i, j) in enumerate(zip(first, second, strict=True)):
        a, b = parent[:, i].astype(np.float64), child[:, j].astype(np.float64)
        assert r[n] == pytest.approx(np.corrcoef(a, b)[0, 1] if b.any() else 0.0, abs=1e-9)
        assert joint[n] == ((a > 0) & (b > 0)).sum()


def test_a_resample_that_draws_each_document_once_gives_r_itself(values, tokens):
    a, b = (codes(one, tokens) for one in values)
    resampler = Resampler(Documents.of(tokens), resamples=20, seed=0)
    resampler.weights[0] = 1
    resampler.n_tokens = resampler.weights @ resampler.documents.n_tokens.astype(float)
    own = np.arange(N)
    drawn = resampler.pairs(a, b, own, own)
    np.testing.assert_allclose(drawn[0], paired(a, b, own, own)[0], atol=1e-9)
    assert drawn[1:, 80:95].std() > 0


@pytest.mark.parametrize("n", [2, 3, 20, 200])
def test_a_stranger_is_never_the_latent_itself_and_fires_about_as_often(n):
    draw = generator(0, "strangers", n)
    firings = draw.integers(0, 1000, n)
    rank = np.empty(n, int)
    rank[np.lexsort((np.arange(n), firings))] = np.arange(n)
    seen = np.stack([strangers(firings, draw) for _ in range(400)])
    assert not (seen == np.arange(n)).any()
    far = np.abs(rank[seen] - rank)
    assert far.max() <= 2 * NEAR  # at the ends the window leans inwards
    if n == 200:
        inner = (rank >= NEAR) & (rank < n - NEAR)
        assert far[:, inner].max() == NEAR


@pytest.fixture(scope="module")
def related(tokens):
    """Three seeds of unrelated latents; each seed's child is its parent's own copy."""
    own = [dense(tokens, 40, seed=20 + seed) for seed in range(3)]
    for seed in (1, 2):
        own[seed][:, :10] = noisy(own[0][:, :10], 0.1, 30 + seed)  # what every seed finds
    return {
        name: [codes(noisy(v, 0.1, 40 + n + seed), tokens, name, seed) for seed, v in enumerate(own)]
        for n, name in ((0, "parent"), (5, "child"))
    }


def test_a_shared_start_is_in_no_share(related, tokens):
    edges = [("parent", "child")]
    together = edge_tables(Lineage(related, edges, tokens, FAST, seed=0))
    apart = Lineage(related, edges, tokens, FAST, seed=0, shared_start=True)
    found = edge_tables(apart)
    assert apart.pairs("parent", "child") == [(s, t) for s in range(3) for t in range(3) if s != t]
    assert together["edges"]["persist"][0] == pytest.approx(0.5)  # a third of the pairs keep everything
    assert together["edges"]["heritability"][0] == pytest.approx(2.0)
    assert found["edges"]["persist"][0] == pytest.approx(0.25)
    assert found["edges"]["heritability"][0] == pytest.approx(1.0)
    assert found["edges"]["n_seed_pairs"][0] == 6
    assert found["matches"].select("seed_parent", "seed_child").n_unique() == 9  # pages show them all


def test_consensus_features_are_looked_for_where_their_own_start_is_not(related, tokens):
    """Features that all seeds agree on are found in each case; the count of SAEs asked tells the pairs."""
    edges = [("parent", "child")]
    apart = ConsensusLineage(Lineage(related, edges, tokens, FAST, seed=0, shared_start=True))
    whole = ConsensusLineage(Lineage(related, edges, tokens, FAST, seed=0))
    assert len(apart.found("parent", "child").each) == 3
    assert len(whole.found("parent", "child").each) == 9
    assert apart.found("parent", "child").share == pytest.approx(1.0)
    assert np.isfinite(apart.found("parent", "child").resampled).all()


def test_one_seed_and_a_shared_start_leave_nothing_to_compare(related, tokens):
    single = {name: own[:1] for name, own in related.items()}
    with pytest.raises(ConfigError, match="no pair is independent"):
        Lineage(single, [("parent", "child")], tokens, FAST, seed=0, shared_start=True)


def test_starts_meet_at_the_parent_or_further_up_or_nowhere():
    edges = [("a", "b"), ("a", "c"), ("b", "m"), ("c", "m"), ("a", "m"), ("z", "m")]
    begun = {"b": "a", "c": "a", "m": "b"}
    assert meetings(edges, begun) == {
        ("a", "b"): "a", ("a", "c"): "a", ("b", "m"): "b", ("c", "m"): "a", ("a", "m"): "a",
    }  # fmt: skip
