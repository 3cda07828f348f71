"""A crosscoder beside a lineage: planted agreement is found, shuffled partners agree by chance alone."""

import numpy as np
import polars as pl
import pytest
from planted import codes, dense, noisy, stream
from test_crosscoding import judged

from heredity.features.crosscoder_edges import crosscoder_tables
from heredity.features.crosscoder_verdicts import agreement, partners
from heredity.features.lineage import Lineage
from heredity.features.verdicts import Tracking

KEPT, LOST, NEW = range(20), range(20, 30), range(30, 40)


@pytest.fixture(scope="module")
def planted_lineage():
    """20 latents kept, 10 lost and 10 new, two seeds each; the crosscoder has all 40 and the child's 10 twice over."""
    tokens = stream()
    true = dense(tokens, 40, rate=0.05)
    has = {"base": [*KEPT, *LOST], "lua": [*KEPT, *NEW]}
    members = {}
    for place, (name, own) in enumerate(has.items()):
        mine = np.where(np.isin(np.arange(40), own), true, 0)
        members[name] = [
            codes(noisy(mine, 0.1, 10 * place + seed), tokens, name, seed=seed) for seed in (0, 1)
        ]
    settings = Tracking(resamples=40)
    lineage = Lineage(members, [("base", "lua")], tokens, settings, seed=0)
    return lineage, codes(noisy(true, 0.1, 99), tokens, "base+lua")


def test_what_is_planted_agrees_and_has_its_nulls(planted_lineage):
    lineage, crosscoder = planted_lineage
    tables = crosscoder_tables(
        lineage, judged(["both"] * 20 + ["parent only"] * 10 + ["child only"] * 10), crosscoder
    )
    pairs = tables["crosscoder_pairs"]
    assert pairs["member"].to_list() == ["base", "lua"]
    assert pairs["n"].to_list() == [30, 30]
    assert pairs["paired"].to_list() == [1, 1]
    assert pairs["floor_p95"].max() < 0.05
    (row,) = tables["crosscoder_edges"].to_dicts()
    assert (row["pairs"], row["n"], row["agree"], row["kappa"]) == (4, 60, 1, 1)
    assert row["chance"] == pytest.approx(5 / 9)  # (20/30)² + (10/30)² at each end
    assert 5 / 9 < row["chance_p95"] < 0.75
    assert (row["agree_low"], row["kappa_low"], row["kappa_min"], row["kappa_max"]) == (1, 1, 1, 1)
    meeting = tables["crosscoder_meeting"]
    assert meeting.height == 4 * 4
    assert meeting.select("seed_parent", "seed_child").unique().height == 4


def test_each_pair_of_seeds_counts_and_the_interval_holds_the_whole(planted_lineage):
    lineage, crosscoder = planted_lineage
    # of the kept: 12 shared, 4 base's alone, 4 graded; of the lost 6 are base's; of the new 7 are lua's
    words = (
        ["both"] * 12
        + ["parent only"] * 4
        + ["graded"] * 4
        + ["parent only"] * 6
        + ["both"] * 4
        + ["child only"] * 7
        + ["both"] * 3
    )
    tables = crosscoder_tables(lineage, judged(words), crosscoder)
    (row,) = tables["crosscoder_edges"].to_dicts()
    one = tables["crosscoder_meeting"].filter(seed_parent=0, seed_child=0)
    found = agreement(one)
    assert row["n"] == found.n == 16 + 10 + 16 + 10
    assert row["agree"] == pytest.approx(found.agree)  # all pairs of seeds are alike here
    assert row["chance"] == pytest.approx(found.chance)
    assert row["kappa"] == pytest.approx(found.kappa)
    assert row["kappa_min"] == pytest.approx(row["kappa_max"])
    assert row["kappa_low"] < row["kappa"] < row["kappa_high"]
    assert row["agree_low"] < row["agree"] < row["agree_high"]
    assert row["chance_p95"] > row["chance"]
    again = crosscoder_tables(lineage, judged(words), crosscoder)["crosscoder_edges"]
    assert again.equals(tables["crosscoder_edges"])


def test_one_word_alone_has_no_kappa_and_strangers_no_agreement(planted_lineage):
    lineage, crosscoder = planted_lineage
    (row,) = crosscoder_tables(lineage, judged(["both"] * 40), crosscoder)["crosscoder_edges"].to_dicts()
    assert row["agree"] == row["chance"] == pytest.approx(2 / 3)
    assert (row["kappa"], row["kappa_low"], row["kappa_min"]) == (None, None, None)
    nothing = crosscoder_tables(lineage, judged(["graded"] * 40), crosscoder)["crosscoder_edges"]
    (row,) = nothing.to_dicts()
    assert (row["n"], row["agree"], row["chance_p95"], row["kappa"]) == (0, None, None, None)
    assert nothing.schema["agree"] == pl.Float64


def test_seeds_that_differ_count_each_in_their_own_pairs():
    """The child's second SAE finds only half of what the first finds: the whole is that of the pairs together."""
    tokens = stream()
    true = dense(tokens, 40, rate=0.05)
    own = {("base", 0): 30, ("base", 1): 30, ("lua", 0): 20, ("lua", 1): 10}
    members = {
        name: [
            codes(
                noisy(np.where(np.arange(40) < own[name, seed], true, 0), 0.1, 7 * seed + len(name)),
                tokens,
                name,
            )
            for seed in (0, 1)
        ]
        for name in ("base", "lua")
    }
    lineage = Lineage(members, [("base", "lua")], tokens, Tracking(resamples=40), seed=0)
    words = ["both"] * 15 + ["parent only"] * 25
    tables = crosscoder_tables(lineage, judged(words), codes(noisy(true, 0.1, 99), tokens, "base+lua"))
    (row,) = tables["crosscoder_edges"].to_dicts()
    pairs = [
        agreement(part) for _, part in tables["crosscoder_meeting"].group_by("seed_parent", "seed_child")
    ]
    n = sum(one.n for one in pairs)
    assert row["n"] * row["pairs"] == n == 2 * (30 + 20) + 2 * (30 + 10)
    assert row["agree"] == pytest.approx(sum(one.agree * one.n for one in pairs) / n)
    assert len({one.agree for one in pairs}) == 2


def test_a_partner_fires_often_enough_together():
    tokens = stream()
    high, low = np.zeros((tokens.n_tokens, 1), np.float32), np.zeros((tokens.n_tokens, 1), np.float32)
    high[:45], low[45:60] = np.arange(5, 50)[:, None], 0.1
    own = codes(high + low, tokens)
    assert partners(own, codes(high, tokens), Tracking()).tolist() == [-1]
    assert partners(own, own, Tracking()).tolist() == [0]
