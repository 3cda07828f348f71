import numpy as np
import pytest
from planted import CONTEXT, codes, dense, noisy, stream

from heredity.features.describe import contexts_table, domain_shares, latents_table
from heredity.features.highlights import highlights_table, interests
from heredity.features.lineage import Lineage
from heredity.features.verdicts import Tracking


def word(token: int) -> str:
    return " 7" if token % 10 == 7 else f" w{token}"


@pytest.fixture(scope="module")
def told():
    tokens = stream(documents=8)
    domain = np.asarray(tokens.domain)
    values = dense(tokens, 6, rate=0.05, seed=1)
    names = np.asarray(tokens.tokens)
    values[:, 0] = (names == 5) * 2.0
    values[:, 1] = np.where(names % 10 == 7, 1.5, 0)
    values[:, 2] = np.where(domain == 1, 1.0, 0)
    values[:, 3] = np.concatenate([[0], names[:-1] == 9]) * 1.0
    values[:, 5] = 0
    return tokens, values, codes(values, tokens)


def test_latents_table_tells_counts_tokens_and_domains(told):
    tokens, values, own = told
    table = latents_table(own, tokens, word, seed=3)
    assert table["firings"].to_list() == (values > 0).sum(axis=0).tolist()
    assert table["top_tokens"][0].to_list() == [" w5"]
    assert table["domain_share"][2].to_list() == [0, 1]
    assert table["dead"].to_list() == [False] * 5 + [True]
    assert table["seed"].unique().to_list() == [3]
    np.testing.assert_allclose(domain_shares(own, tokens)[:5].sum(axis=1), 1)


def test_contexts_show_the_peak_with_its_activations(told):
    tokens, values, own = told
    table = contexts_table(own, tokens, word, [0, 4, 5], seed=0, contexts=4)
    assert table.filter(latent=5).height == 0
    for row in table.iter_rows(named=True):
        assert row["peak"] == pytest.approx(values[row["position"], row["latent"]])
        assert max(row["activations"]) == pytest.approx(row["peak"])
        assert len(row["tokens"]) == len(row["activations"]) <= CONTEXT
        assert word(int(tokens.tokens[row["position"]])) in row["tokens"]
        assert row["document"].startswith(row["domain"])
    four = table.filter(latent=4)
    assert four["peak"].to_list() == sorted(four["peak"], reverse=True)
    assert four["document"].n_unique() >= 2


def test_highlights_rank_the_telling_ones_first(told):
    tokens, values, own = told
    interest = interests(own, tokens)
    assert interest[5] == 0
    assert interest[0] > interest[4]
    lost = noisy(values, 0.05, 1)
    lost[:, 1] = dense(tokens, 1, rate=0.05, seed=7)[:, 0]
    family = {"base": [own], "child": [codes(lost, tokens, "child")]}
    table = highlights_table(
        Lineage(family, [("base", "child")], tokens, Tracking(resamples=20), seed=0), tokens, each=3
    )
    gone = table.filter(kind="disappears")
    assert gone["latent"].to_list() == [1]
    assert table.filter(kind="emerges")["member"].to_list() == ["child"]
    kept = table.filter(kind="persists")
    assert kept["score"].to_list() == sorted(kept["score"], reverse=True)
    assert kept["latent"][0] != 4
    assert "r = " in kept["reason"][0]
    assert table.filter(kind="universal")["edge_parent"].null_count() == 3
