import numpy as np
import polars as pl
import pytest
from planted import CONTEXT, codes, dense, noisy, stream

from heredity.errors import ConfigError, StoreError
from heredity.features import inheritance, tables
from heredity.features.lineage import Lineage
from heredity.features.nulls import floor, shifted
from heredity.features.resample import Documents, Resampler, contexts_fired
from heredity.features.verdicts import Tracking
from heredity.seeds import generator

N = 120
FAST = Tracking(resamples=40)


@pytest.fixture(scope="module")
def tokens():
    return stream()


@pytest.fixture(scope="module")
def family(tokens):
    """base → left, right → merge; latents 0–59 kept everywhere, the rest planted by hand."""
    base = dense(tokens, N, seed=1)
    left = noisy(base, 0.1, 2)
    halves = generator(0, "halves").random(tokens.n_tokens) < 0.5
    left[:, 60] = base[:, 60] * halves  # 60 splits into 60 and 61
    left[:, 61] = base[:, 60] * ~halves
    left[:, 62] = base[:, 62] + base[:, 63]  # 62 and 63 fuse into 62
    left[:, 63:70] = dense(tokens, 7, seed=3)  # 61 and 64–69 are lost, 63–69 are new
    left[:, 70] = np.where(np.cumsum(base[:, 70] > 0) <= 20, base[:, 70], 0)  # rare in the child
    left = left[:, ::-1]  # renamed
    right = noisy(base, 0.1, 4)
    right[:, 80:] = dense(tokens, N - 80, seed=5)
    merge = noisy(base, 0.1, 6)
    merge[:, 75:80] = noisy(left[:, ::-1][:, 75:80], 0.1, 7)
    merge[:, 80:100] = right[:, 80:100]
    merge[:, 100:] = dense(tokens, N - 100, seed=8)
    merge[:, 60:70] = dense(tokens, 10, seed=9)
    values = {"base": base, "left": left, "right": right, "merge": merge}
    return {
        name: [codes(v, tokens, name, 0), codes(noisy(v, 0.1, 10 + i)[:, ::-1], tokens, name, 1)]
        for i, (name, v) in enumerate(values.items())
    }


EDGES = [("base", "left"), ("base", "right"), ("left", "merge"), ("right", "merge")]


@pytest.fixture(scope="module")
def lineage(family, tokens):
    return Lineage(family, EDGES, tokens, FAST, seed=0)


def test_planted_fates_are_recovered(lineage):
    both = lineage.comparison("base", 0, "left", 0)
    parent, child = both.parent, both.child
    kept = [*range(60), *range(71, N)]
    assert parent.persists[kept].all()
    np.testing.assert_array_equal(parent.match[kept], N - 1 - np.array(kept))  # renamed
    assert parent.splits[60]
    assert not parent.persists[60]
    assert parent.disappears[[61, *range(64, 70)]].all()
    assert child.splits[N - 1 - 62]  # two parents fuse into it
    assert child.disappears[N - 1 - np.arange(63, 70)].all()  # new in the child
    assert child.rare[N - 1 - 70]
    assert not child.eligible[N - 1 - 70]
    assert not parent.persists[70]  # fewer than 50 joint firings


def test_latents_that_never_fire_together_are_lost(tokens):
    a, b = dense(tokens, 4, seed=1), dense(tokens, 4, seed=2)
    half = np.arange(tokens.n_tokens) % 2 == 0
    one = Lineage({"a": [codes(a * half[:, None], tokens)], "b": [codes(b * ~half[:, None], tokens, "b")]},
                  [("a", "b")], tokens, FAST, seed=0)  # fmt: skip
    side = one.comparison("a", 0, "b", 0).parent
    assert not side.best_r.any()
    assert side.disappears.all()


def test_edges_have_floor_ceiling_and_heritability(lineage):
    edges = tables.edge_tables(lineage)["edges"]
    row = edges.row(0, named=True)
    assert row["n_seed_pairs"] == 4
    assert row["persist"] == pytest.approx((N - 11) / N, abs=0.01)
    assert row["persist"] + row["disappear"] + row["undecided"] == pytest.approx(1)
    assert row["persist_child"] + row["emerge"] + row["emerge_undecided"] == pytest.approx(1)
    assert (row["rare_parent"], row["rare_child"]) == (0, 1)  # apart: in no share
    assert (row["n_parent"], row["n_child"]) == (N, N - 1)
    assert row["floor"] < 0.01
    assert row["fdr"] <= row["fdr_high"] < 0.01
    assert row["ceiling"] == pytest.approx(1)
    assert row["heritability"] == pytest.approx(row["persist"], abs=0.01)
    assert row["heritability_low"] <= row["heritability"] <= row["heritability_high"]
    assert "conditional on these SAEs" in row["decided_by"]
    assert edges["heritability"].null_count() == 0


def test_tables_agree_with_each_other(lineage):
    made = tables.edge_tables(lineage)
    curve = made["tau_curve"].filter(parent="base", child="left")
    assert curve["tau"].is_sorted()
    assert curve["persist"].to_list() == sorted(curve["persist"].to_list(), reverse=True)
    at = curve.filter(pl.col("tau") == 0.8)["persist"].item()
    assert at == pytest.approx(made["edges"]["persist"][0])
    sums = made["r_histogram"].group_by("parent", "child", "kind").agg(pl.col("share").sum())["share"]
    np.testing.assert_allclose(sums, 1)
    best = made["matches"].filter(pl.col("rank") == 0, side="parent", parent="base", child="left")
    share = (
        best.group_by("seed_parent", "seed_child")
        .agg((pl.col("verdict") == "persists").mean())["verdict"]
        .mean()
    )
    assert share == pytest.approx(made["edges"]["persist"][0])
    flows = made["flows"].filter(parent="base", child="left")
    assert flows.filter(kind="persists")["count"].item() == pytest.approx(at * made["edges"]["n_parent"][0])


def test_decoder_cosine_stands_beside_r(family, tokens):
    one = Lineage({"base": family["base"][:1], "left": family["left"][:1]}, EDGES[:1], tokens, FAST, seed=0)
    rows = generator(0, "rows").standard_normal((N, 16))
    made = tables.edge_tables(one, {"base": [rows], "left": [rows[::-1]]})
    assert made["edges"]["decoder_cosine_median"].item() == pytest.approx(1)
    kept = made["matches"].filter(pl.col("rank") == 0, verdict="persists")
    np.testing.assert_allclose(kept["decoder_cosine"], 1)
    other = tables.edge_tables(one, {"base": [rows], "left": [rows[:, :8]]})  # another basis: no cosine
    assert other["edges"]["decoder_cosine_median"].item() is None
    assert other["matches"]["decoder_cosine"].null_count() == other["matches"].height
    assert made["edges"]["heritability"].item() is None  # one seed: no ceiling
    assert any("no ceiling" in line for line in one.warnings)


def test_merge_takes_from_both(lineage):
    made = inheritance.tables(lineage)["inheritance"]
    share = {(row["of"], row["kind"]): row["share"] * N for row in made.iter_rows(named=True)}
    assert share["", "left only"] == pytest.approx(0, abs=0.5)
    assert share["", "right only"] == pytest.approx(21, abs=0.5)  # 80–99 and 70, which is rare in the left
    assert share["", "both"] == pytest.approx(60 + 9, abs=0.5)
    assert share["", "neither"] == pytest.approx(30, abs=0.5)
    assert share["", "old"] == pytest.approx(70, abs=0.5)
    assert share["", "learned"] == pytest.approx(20, abs=0.5)
    assert share["", "new"] == pytest.approx(30, abs=0.5)
    for parent in ("left", "right"):
        one = lineage.result(parent, "merge").comparisons
        assert sum(share[parent, kind] for kind in ("kept", "lost", "undecided")) == pytest.approx(N)
        lost = np.mean([both.parent.disappears.sum() for both in one])
        assert share[parent, "lost"] == pytest.approx(
            lost * N / np.mean([b.parent.eligible.sum() for b in one])
        )
    apart = made.filter(pl.col("kind").is_in(["lost", "undecided"]))
    assert apart["floor"].null_count() == apart.height == 4
    assert made.filter(pl.col("kind").is_in(["both", "left only"]))["floor"].max() < 0.01


def test_universal_features_are_matched_in_all(lineage):
    made = inheritance.universal(lineage)
    assert made["index"].n_unique() == 60 + 9
    one = made.filter(pl.col("index") == 0)
    assert one["member"].to_list() == ["base", "left", "right", "merge"]
    base, left, _, merge = one["latent"]
    assert left == N - 1 - base
    assert merge == base
    assert made["r_min"].min() >= 0.8


@pytest.mark.parametrize("l0", [8, 32, 100, 300])
def test_a_shifted_stream_finds_nothing(l0):
    tokens = stream(documents=5, contexts=20)
    latents = 8 * l0
    # every latent has a domain it prefers: what a shift across domains would destroy
    prefer = generator(0, "prefer").random(latents) < 0.5
    domain = np.asarray(tokens.domain) == 0
    rate = np.where(prefer[None, :] == domain[:, None], 0.225, 0.025)
    draw = generator(l0, "fires")
    values = (draw.random(rate.shape) < rate).astype(np.float32) * draw.uniform(0.5, 2, rate.shape).astype(
        np.float32
    )
    own = codes(values, tokens)
    assert own.l0 == pytest.approx(l0, rel=0.05)
    settings = Tracking(floor_share=min(1.0, 16 / l0))  # 128 latents in each shift
    chance = floor([own], [own], Documents.of(tokens), settings, seed=0, name="null")
    assert len(chance.curves) == 20
    assert chance.mean[FAST.at] < 0.01
    assert chance.p95[FAST.at] < 0.01


def test_shifts_stay_within_domains_and_on_contexts(tokens):
    documents = Documents.of(tokens)
    beside = shifted(documents, CONTEXT, generator(0, "shift"))
    domain = np.asarray(tokens.domain)
    np.testing.assert_array_equal(domain[beside], domain)
    assert len(np.unique(beside)) == len(beside)
    np.testing.assert_array_equal(beside % CONTEXT, np.arange(len(beside)) % CONTEXT)
    assert (beside != np.arange(len(beside))).all()
    with pytest.raises(StoreError, match="nothing to shift"):
        shifted(Documents.of(stream(documents=1, contexts=1)), CONTEXT, generator(0, "shift"))


def test_resampled_bounds_equal_the_dense_computation(family, tokens, lineage):
    a, b = family["base"][0], family["left"][0]
    candidates = lineage.comparison("base", 0, "left", 0).parent.candidates
    few = Resampler(Documents.of(tokens), resamples=7, seed=3)
    taus = np.array([0.5, 0.9])
    can = np.ones(N, bool)
    got = few.bounds(
        a, b, few.totals(a), few.totals(b), candidates, eligible=can, min_joint=0, taus=taus, at=0
    )
    da, db = (np.zeros((tokens.n_tokens, N)) for _ in range(2))
    for j in range(N):
        da[a.of_latent(j)[0], j], db[b.of_latent(j)[0], j] = a.of_latent(j)[1], b.of_latent(j)[1]
    near = (candidates.r >= 0.2) | (np.arange(8) == 0)
    best = np.zeros((7, N))
    for s, weight in enumerate(few.weights):
        copies = np.repeat(np.arange(tokens.n_tokens), weight[few.documents.of_token].astype(int))
        r = np.corrcoef(da[copies].T, db[copies].T)[:N, N:]
        best[s] = [max([0, *r[i, c[near[i]]]]) for i, c in enumerate(candidates.latent)]
    np.testing.assert_allclose(got.low, np.percentile(best, 2.5, axis=0), atol=1e-9)
    assert (got.high >= np.percentile(best, 97.5, axis=0) - 1e-9).all()
    np.testing.assert_allclose(got.shares, (best[:, :, None] >= taus).mean(axis=1))
    some = np.array([0, 7, 8, 63, N - 1])
    np.testing.assert_array_equal(got.matched(some), best[:, some] >= taus[0])


def test_contexts_are_counted_once(tokens):
    values = np.zeros((tokens.n_tokens, 3), np.float32)
    values[[0, 1, 31, 32, 200], 0] = 1
    values[[5, 64], 2] = 1
    np.testing.assert_array_equal(contexts_fired(codes(values, tokens)), [3, 0, 2])


def test_same_seed_same_tables_other_seed_other_intervals(family, tokens):
    def run(seed):
        pair = {"base": family["base"], "left": family["left"]}
        return tables.edge_tables(Lineage(pair, EDGES[:1], tokens, FAST, seed=seed))

    one, two, three = run(1), run(1), run(2)
    for name in one:
        assert one[name].equals(two[name]), name
    assert not one["matches"].equals(three["matches"])


def test_what_cannot_be_compared_is_refused(family, tokens):
    with pytest.raises(ConfigError, match="no codes of that member"):
        Lineage({"base": family["base"]}, EDGES, tokens, FAST, seed=0)
    with pytest.raises(ConfigError, match="split_tau"):
        Tracking(split_tau=0.9)


def test_unequal_l0_is_said(family, tokens):
    thin = [codes(dense(tokens, N, rate=0.01, seed=1), tokens, "left")]
    one = Lineage({"base": family["base"][:1], "left": thin}, EDGES[:1], tokens, FAST, seed=0)
    assert any("differ by more than 20 %" in line for line in one.warnings)


def test_what_splits_stands_beside_chance_and_a_second_look_at_the_same_model(tokens):
    """In one seed latents 0–9 are whole, in the other each is two: they split between SAEs of one model as well."""
    base = dense(tokens, 40, seed=21)
    halves = generator(0, "parts").random(tokens.n_tokens) < 0.5
    whole = np.concatenate([base, np.zeros((tokens.n_tokens, 10), np.float32)], axis=1)
    first, second = (base[:, :10] * half[:, None] for half in (halves, ~halves))
    parted = np.concatenate([first, base[:, 10:], second], axis=1)
    members = {
        name: [codes(whole, tokens, name, 0), codes(parted, tokens, name, 1)] for name in ("base", "child")
    }
    row = tables.edge_tables(Lineage(members, [("base", "child")], tokens, FAST, seed=0))["edges"].row(
        0, named=True
    )
    assert row["split_ceiling"] == pytest.approx((10 / 40 + 0) / 2)  # whole → parted, and back
    assert row["fuse_ceiling"] == pytest.approx(row["split_ceiling"])
    assert row["split"] == pytest.approx((10 / 40) / 4)  # of four pairs of seeds, whole → parted alone
    assert row["split_floor"] < 0.01


def test_parts_that_are_shared_by_all_tokens_split_by_chance_too(tokens):
    """Latents that follow the place in the context alone survive a shift by whole contexts, and so do their parts."""
    place = np.arange(tokens.n_tokens) % tokens.context
    here = np.zeros((tokens.n_tokens, 3), np.float32)
    here[:, 0] = place < 4
    here[:, 1] = place < 2
    here[:, 2] = (place >= 2) & (place < 4)
    noise = dense(tokens, 3, seed=5)
    base = np.concatenate([here[:, :1], noise], axis=1).astype(np.float32)
    child = np.concatenate([here[:, 1:], dense(tokens, 2, seed=6)], axis=1).astype(np.float32)
    pair = {"base": [codes(base, tokens, "base", 0)], "child": [codes(child, tokens, "child", 0)]}
    settings = Tracking(resamples=40, tau=0.9, floor_share=1.0)
    row = tables.edge_tables(Lineage(pair, [("base", "child")], tokens, settings, seed=0))["edges"].row(
        0, named=True
    )
    assert row["split"] == pytest.approx(1 / 4)
    assert row["split_floor"] == pytest.approx(1 / 4)
    assert row["split_ceiling"] is None
