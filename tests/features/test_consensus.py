import numpy as np
import polars as pl
import pytest
import torch
from planted import codes, dense, noisy, stream
from sae_examples import EXAMPLES, some

from heredity.errors import ConfigError, MismatchError
from heredity.features.codes import Codes
from heredity.features.consensus import Consensus, Links, consensus, gathered, majority
from heredity.features.consensus_edges import ConsensusLineage
from heredity.features.dictionary import dictionary
from heredity.features.lineage import Lineage
from heredity.features.sae import TopK
from heredity.features.sae._format import load, save
from heredity.features.sae._variant import Sparse
from heredity.features.verdicts import Tracking
from heredity.run import Run
from heredity.seeds import generator
from heredity.studies.features.lineage import save_dictionaries

N = 60
FAST = Tracking(resamples=40)
ORDER = [generator(0, "order", s).permutation(N) for s in range(3)]


@pytest.fixture(scope="module")
def tokens():
    return stream(documents=12)


def seeds(truth, member, tokens, private):
    """Three SAEs: latents 0–29 in all, 30–39 in the first two, the rest each seed's own; in an order of their own."""
    made = []
    for s, order in enumerate(ORDER):
        values = noisy(truth, 0.1, private + s)
        own = dense(tokens, N, seed=private + 10 + s)
        values[:, 40:] = own[:, 40:]
        if s == 2:
            values[:, 30:40] = own[:, 30:40]
        made.append(codes(values[:, order], tokens, member, s))
    return made


@pytest.fixture(scope="module")
def family(tokens):
    base = dense(tokens, N, seed=1)
    child = base.copy()
    child[:, 10:20] = dense(tokens, 10, seed=2)  # 10–19 lost, as many new
    return {"base": seeds(base, "base", tokens, 100), "child": seeds(child, "child", tokens, 200)}


@pytest.fixture(scope="module")
def lineage(family, tokens):
    return Lineage(family, [("base", "child")], tokens, FAST, seed=0)


@pytest.fixture(scope="module")
def agreed(lineage):
    return ConsensusLineage(lineage)


def truth_of(one):
    """The planted feature that each consensus feature is, from any of its latents; they must all say the same."""
    names = np.stack([np.where(one.latents[:, s] >= 0, ORDER[s][one.latents[:, s]], -1) for s in one.seeds])
    named = np.where(names < 0, names.max(axis=0), names)
    assert (named == named[0]).all()
    return named[0]


def test_planted_consensus_is_recovered(agreed):
    one = agreed.of("base")
    assert sorted(truth_of(one)) == list(range(40))
    np.testing.assert_array_equal(one.found_by(), np.where(truth_of(one) < 30, 3, 2))
    assert (np.diff(one.r) <= 0).all()
    assert (ORDER[0][one.latents[:, 0]] == truth_of(one)).all()
    medoid = np.array([ORDER[s][i] for s, i in zip(one.medoid_seed, one.medoid, strict=True)])
    np.testing.assert_array_equal(medoid, truth_of(one))


def test_the_ceiling_comes_from_the_seed_left_out(agreed):
    table = agreed.tables["consensus"].filter(member="base")
    assert table["held_out"].to_list() == [None, 0, 1, 2]
    assert table["n_features"].to_list() == [40, 30, 30, 40]
    np.testing.assert_allclose(table["found"], [(1 + 1 + 0.75) / 3, 1, 1, 0.75])
    whole = table.row(0, named=True)
    assert whole["needed"] == 2
    assert whole["share_of_latents"] == pytest.approx((40 + 40 + 30) / 3 / N)
    assert (whole["share_min"], whole["share_max"]) == pytest.approx((30 / N, 40 / N))
    assert whole["found_low"] <= whole["found"] <= whole["found_high"]


def test_only_consensus_features_have_a_fate(agreed):
    row = agreed.tables["consensus_edges"].row(0, named=True)
    assert row["n_parent"] == row["n_child"] == 40
    # left out 0 or 1: 20 of 30 are in any SAE of the child; 2: 30 of 40 in its first two, 20 in its third
    want = np.mean([2 / 3] * 6 + [3 / 4, 3 / 4, 1 / 2])
    assert row["found"] == pytest.approx(want)
    assert row["found_low"] <= row["found"] <= row["found_high"]
    assert row["floor"] < 0.01
    assert row["ceiling"] == pytest.approx(11 / 12)
    assert row["heritability"] == pytest.approx(want / (11 / 12), abs=0.01)
    assert row["persist"] == pytest.approx(30 / 40)
    assert row["vanish"] == pytest.approx(10 / 40)
    assert row["emerge"] == pytest.approx(10 / 40)
    matches = agreed.tables["consensus_matches"]
    gone = matches.filter(side="parent", verdict="vanishes")["feature"].to_numpy()
    assert sorted(truth_of(agreed.of("base"))[gone]) == list(range(10, 20))
    kept = matches.filter(side="parent", verdict="persists")
    partner = truth_of(agreed.of("child"))[kept["partner"].to_numpy()]
    np.testing.assert_array_equal(partner, truth_of(agreed.of("base"))[kept["feature"].to_numpy()])


def test_two_members_alike_have_a_heritability_of_one(tokens):
    """Every SAE finds each of 400 features with a chance of 0.7, on its own."""
    truth = dense(tokens, 400, seed=1)
    draw = generator(0, "luck")
    twin = {
        name: [
            codes(np.where(draw.random(400) < 0.7, truth, dense(tokens, 400, seed=50 + 3 * n + s)), tokens, name, s)
            for s in range(3)
        ]
        for n, name in enumerate(("base", "child"))
    }  # fmt: skip
    row = ConsensusLineage(Lineage(twin, [("base", "child")], tokens, FAST, seed=0)).tables["consensus_edges"]
    assert row["found"].item() == pytest.approx(0.7, abs=0.05)
    assert row["ceiling"].item() == pytest.approx(0.7, abs=0.05)
    assert row["heritability_low"].item() <= 1 <= row["heritability_high"].item()


def test_no_pair_is_correlated_twice(family, tokens):
    said: list[str] = []
    one = Lineage(family, [("base", "child")], tokens, FAST, seed=0, progress=said.append)
    one.results()
    before = len(said)
    ConsensusLineage(one).tables  # noqa: B018
    assert said[before:] == ["base → child: consensus features"]


def test_the_listed_latents_are_the_clusters(agreed):
    table = agreed.tables["consensus_latents"].filter(member="child")
    assert table["feature"].n_unique() == 40
    assert table.group_by("feature", "seed").len()["len"].max() == 1  # one latent per seed
    assert table.filter("medoid").height == 40
    assert (
        (
            table.group_by("feature")
            .len()
            .join(table, on="feature")
            .select(pl.col("len") == pl.col("found_by"))
        )
        .to_series()
        .all()
    )


def test_fewer_than_three_seeds_have_no_consensus(family, tokens):
    two = {name: seeds[:2] for name, seeds in family.items()}
    one = Lineage(two, [("base", "child")], tokens, FAST, seed=0)
    made = ConsensusLineage(one).tables
    assert all(table.is_empty() for table in made.values())
    assert any("at least 3 seeds" in line for line in one.warnings)


def test_strangers_agree_on_nothing(tokens):
    own = {
        name: [codes(dense(tokens, 20, seed=10 * n + s), tokens, name, s) for s in range(3)]
        for n, name in enumerate(("base", "child"))
    }
    made = ConsensusLineage(Lineage(own, [("base", "child")], tokens, FAST, seed=0)).tables
    assert made["consensus"]["n_features"].sum() == 0
    assert made["consensus"]["found"].null_count() == made["consensus"].height
    row = made["consensus_edges"].row(0, named=True)
    assert row["heritability"] is None
    assert row["persist"] is None
    assert made["consensus_latents"].is_empty()


def link(*rows):
    ends = np.array([row[:4] for row in rows])
    return Links(ends[:, [0, 2]], ends[:, [1, 3]], np.array([row[4] for row in rows], float))


def test_a_cluster_has_one_latent_per_seed():
    # 0:0 – 1:0 – 2:0 is sure; 2:0 – 0:1 would put two latents of seed 0 into it
    found = link((0, 0, 1, 0, 0.95), (1, 0, 2, 0, 0.9), (0, 1, 2, 0, 0.85), (0, 1, 1, 1, 0.82))
    one = consensus(found, [0, 1, 2], [np.array([60, 70])] * 3)
    np.testing.assert_array_equal(one.latents, [[0, 0, 0], [1, 1, -1]])
    np.testing.assert_allclose(one.r, [0.925, 0.82])
    assert (one.medoid_seed[0], one.medoid[0]) == (1, 0)  # in the middle of the chain
    assert one.medoid_seed[1] == 0  # as strong and as frequent: the first seed
    again = consensus(link(*[(0, 1, 1, 1, 0.82), (0, 1, 2, 0, 0.85), (1, 0, 2, 0, 0.9), (0, 0, 1, 0, 0.95)]),
                      [0, 1, 2], [np.array([60, 70])] * 3)  # fmt: skip
    np.testing.assert_array_equal(again.latents, one.latents)


def test_a_minority_is_no_consensus():
    found = link((0, 0, 1, 0, 0.95), (1, 0, 2, 0, 0.9), (0, 1, 1, 1, 0.9))
    firings = [np.array([60, 70])] * 5
    assert len(consensus(found, [0, 1, 2, 3, 4], firings).r) == 1
    assert [majority(n) for n in (2, 3, 4, 5)] == [2, 2, 3, 3]


def test_gathered_codes_are_those_latents(family, tokens):
    seed, latent = np.array([2, 0, 1, 0]), np.array([5, 7, 0, 2])
    one = gathered(family["base"], seed, latent)
    for n in range(4):
        for got, want in zip(one.of_latent(n), family["base"][seed[n]].of_latent(latent[n]), strict=True):
            np.testing.assert_array_equal(got, want)
    again = Codes.of(one.meta, _sparse(one))
    np.testing.assert_array_equal(again.tokens, one.tokens)
    np.testing.assert_array_equal(again.values_by_latent, one.values_by_latent)
    assert one.meta.seed == -1
    with pytest.raises(ConfigError, match="no latents to gather"):
        gathered(family["base"], seed[:0], latent[:0])


@pytest.mark.parametrize("name", ["topk", "l1", "batchtopk", "jumprelu"])
def test_a_dictionary_of_medoids_computes_what_their_own_saes_do(name, tmp_path):
    saes = [some(EXAMPLES[name], seed=s) for s in range(3)]
    one = Consensus(
        (0, 1, 2), np.zeros((4, 3), np.int64), np.ones(4), np.array([2, 0, 1, 0]), np.array([5, 7, 0, 2])
    )
    save(dictionary(one, saes, l0=1.7), tmp_path / "consensus")
    got = load(tmp_path / "consensus")
    x = torch.from_numpy(generator(1, "x").standard_normal((50, 24)).astype(np.float32))
    for n, (s, latent) in enumerate(zip(one.medoid_seed, one.medoid, strict=True)):
        np.testing.assert_allclose(got.pre(x)[:, n], saes[s].pre(x)[:, latent], atol=1e-5)
        np.testing.assert_array_equal(got.W_dec[n], saes[s].W_dec[latent])
        for kind, value in saes[s].extra.items():
            assert got.extra[kind][n] == value[latent]
    if name == "topk":
        assert got.variant.k == 2
    assert got.metadata["consensus"] == {"seeds": [0, 1, 2], "needed": 2}
    assert got.metadata["member"] == "base"


def test_the_study_saves_a_dictionary_of_every_member(agreed, tmp_path):
    saes = {name: [some(TopK(d_sae=N, k=4), seed=s) for s in range(3)] for name in agreed.members}
    run = Run.open(tmp_path / "run", command="demo", config={}, seed=0)
    save_dictionaries(run, agreed, saes)
    for name in ("base", "child"):
        got = load(run.folder("saes") / f"{name}-consensus")
        assert got.d_sae == len(agreed.of(name).medoid)
        assert got.variant.k == max(1, round(agreed.codes(name).l0))


def test_what_has_no_dictionary_is_refused():
    saes = [some(EXAMPLES["topk"], seed=s) for s in range(3)]
    none = Consensus((0, 1, 2), np.zeros((0, 3), np.int64), np.zeros(0), *[np.zeros(0, np.int64)] * 2)
    two = Consensus((0, 1, 2), np.zeros((1, 3), np.int64), np.ones(1), *[np.zeros(1, np.int64)] * 2)
    with pytest.raises(ConfigError, match="no consensus feature"):
        dictionary(none, saes, l0=1.0)
    with pytest.raises(ConfigError, match="Gated"):
        dictionary(two, [some(EXAMPLES["gated"])] * 3, l0=1.0)
    with pytest.raises(MismatchError, match="L1 of 24 and TopK of 24"):
        dictionary(two, [*saes[:2], some(EXAMPLES["l1"])], l0=1.0)


def _sparse(one):
    return Sparse(one.indptr, one.latents.astype(np.int32), one.values)
