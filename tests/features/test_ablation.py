import numpy as np
import polars as pl
import pytest
from planted import codes, dense, noisy, stream

from heredity.features.ablate import ALL, Ablated
from heredity.features.ablation import ablation_tables, plan, strangers
from heredity.features.lineage import Lineage
from heredity.features.tables import edge_tables
from heredity.features.verdicts import Tracking
from heredity.seeds import generator

N = 60


@pytest.fixture(scope="module")
def made():
    tokens = stream(documents=12)
    base = dense(tokens, N, seed=1)
    child = noisy(base, 0.1, 2)
    child[:, 50:] = dense(tokens, 10, seed=3)
    family = {"base": [codes(base, tokens)], "child": [codes(child[:, ::-1], tokens, "child")]}
    settings = Tracking(resamples=40)
    matches = edge_tables(Lineage(family, [("base", "child")], tokens, settings, seed=0))["matches"]
    return matches, settings, plan(matches, settings, each=30, seed=0)


def measured(planned, effects, seed):
    """What each latent does: its own effect on every token it fires on, in four documents of two domains."""
    draw = generator(seed, "noise")
    firings = {member: draw.integers(5, 50, (len(sets), 4)) for member, sets in planned.sets.items()}
    change = {
        member: np.array([sum(effects[member][i] for i in one.latents) for one in sets])[:, None]
        * firings[member]
        for member, sets in planned.sets.items()
    }
    return {
        member: Ablated(
            ("plays", "python"),
            np.array([0, 0, 1, 1]),
            np.full(4, 1000),
            change[member],
            np.abs(change[member]),
            firings[member],
            True,
        )
        for member in planned.sets
    }


def test_the_plan_is_what_persists_and_what_does_not(made):
    matches, settings, planned = made
    pairs = planned.pairs["base", "child"]
    assert len(pairs) == 30
    np.testing.assert_array_equal(pairs[:, 1], N - 1 - pairs[:, 0])
    assert (pairs[:, 0] < 50).all()
    kinds = {
        member: [one.kind for one in sets if one.kind != "latent"] for member, sets in planned.sets.items()
    }
    assert kinds == {"base": ["persists", "disappears"], "child": ["emerges"]}
    whole = {one.kind: one.latents for sets in planned.sets.values() for one in sets if one.edge}
    assert whole["persists"] == tuple(range(50))
    assert whole["disappears"] == tuple(range(50, 60))
    assert whole["emerges"] == tuple(range(10))
    again = plan(matches, settings, each=30, seed=0)
    np.testing.assert_array_equal(again.pairs["base", "child"], pairs)
    assert not np.array_equal(plan(matches, settings, each=30, seed=1).pairs["base", "child"], pairs)
    assert not len(plan(matches, settings, each=0, seed=0).pairs["base", "child"])


def test_what_matters_alike_is_told_from_what_fires_alike(made):
    planned = made[2]
    own = generator(0, "effects").uniform(0, 1, N)
    alike = measured(planned, {"base": own, "child": own[::-1]}, 1)
    strange = measured(planned, {"base": own, "child": generator(1, "effects").uniform(0, 1, N)}, 1)
    tables = ablation_tables(planned, alike, seed=0)
    row = tables["ablation_alike"].filter(domain=ALL, effect="loss_change").row(0, named=True)
    assert row["n_pairs"] == 30
    assert row["spearman"] > 0.6
    assert row["spearman_low"] <= row["spearman"] <= row["spearman_high"]
    assert row["null_high"] < row["spearman"]
    assert row["p"] < 0.01
    other = ablation_tables(planned, strange, seed=0)["ablation_alike"].filter(domain=ALL).row(0, named=True)
    assert other["effect"] == "loss_change"
    assert other["null_low"] < other["spearman"] < other["null_high"]
    assert tables["ablation_alike"]["domain"].to_list() == ["plays", "plays", "python", "python", ALL, ALL]


def test_every_set_is_listed_in_every_domain(made):
    planned = made[2]
    effects = {"base": np.ones(N), "child": np.ones(N)}
    table = ablation_tables(planned, measured(planned, effects, 2), seed=0)["ablation"]
    assert table.height == 3 * sum(map(len, planned.sets.values()))
    latents = table.filter(kind="latent")
    np.testing.assert_allclose(latents["per_firing"], 1)
    assert (latents["n_latents"] == 1).all()
    assert latents["latent"].null_count() == 0
    lost = table.filter(kind="disappears", domain=ALL).row(0, named=True)
    assert (lost["member"], lost["parent"], lost["child"], lost["n_latents"]) == ("base", "base", "child", 10)
    assert lost["latent"] is None
    assert lost["low"] <= lost["loss_change"] <= lost["high"]
    assert (
        table.select(pl.all().exclude("parent", "child", "latent")).null_count().sum_horizontal().item() == 0
    )


def test_too_few_pairs_have_no_correlation(made):
    matches, settings, _ = made
    few = plan(matches, settings, each=5, seed=0)
    effects = {"base": np.ones(N), "child": np.ones(N)}
    rows = ablation_tables(few, measured(few, effects, 2), seed=0)["ablation_alike"]
    assert rows["spearman"].null_count() == rows.height == 6
    assert rows["mean_parent"].null_count() == 0


def test_strangers_fire_as_often_and_are_never_the_partner():
    firings = np.array([5, 900, 7, 800, 6, 870, 8, 850, 9, 810, 100])
    drawn = strangers(firings, generator(0, "x"), 200)
    assert (np.sort(drawn, axis=1) == np.arange(11)).all()
    assert (drawn != np.arange(11)).all()
    rare = firings < 50
    assert (firings[drawn[:, rare]] <= 100).all()
    assert len(np.unique(drawn, axis=0)) > 20
