import numpy as np
import pytest
from planted import CONTEXT, codes, dense, stream

from heredity.features.firings import counts_by, sum_by, token_tables
from heredity.features.latent_statistics import document_positions, latent_statistics


def word(token: int) -> str:
    return f" w{token}"


@pytest.fixture(scope="module")
def told():
    tokens = stream(documents=6)
    names = np.asarray(tokens.tokens)
    values = dense(tokens, 6, rate=0.1, seed=1)
    place = np.arange(tokens.n_tokens)
    values[:, 0] = (names == 5) * 2.0
    values[:, 1] = (place % CONTEXT == 0) * 1.0
    values[:, 2] = (place % (10 * CONTEXT) < 16) * 1.0
    values[:, 3] = 0
    return tokens, values, codes(values, tokens)


def test_tokens_agree_with_a_plain_count(told):
    tokens, values, own = told
    tables = token_tables(own, tokens, top=4)
    names = np.asarray(tokens.tokens)
    for latent in range(6):
        mass = np.bincount(names, values[:, latent], minlength=100)
        fires = np.bincount(names[values[:, latent] > 0], minlength=100)
        best = np.lexsort((np.arange(100), -mass))[:4]
        best = best[mass[best] > 0]
        n = len(best)
        assert tables.by_mass[latent].tolist() == [*best, *[-1] * (4 - n)]
        np.testing.assert_allclose(tables.mass[latent, :n], mass[best] / max(mass.sum(), 1e-9), rtol=1e-6)
        assert tables.distinct[latent] == (fires > 0).sum()
        share = mass[mass > 0] / max(mass.sum(), 1e-9)
        assert tables.entropy[latent] == pytest.approx(-(share * np.log(share)).sum(), abs=1e-6)
        for at, token in enumerate(tables.by_rate[latent]):
            if token >= 0:
                assert tables.rate_firings[latent, at] == fires[token]
                assert tables.rate_occurrences[latent, at] == (names == token).sum()


def test_counts_and_sums_by_kind(told):
    tokens, values, own = told
    kind = np.arange(tokens.n_tokens) % 7
    counts = counts_by(own, kind)
    assert counts[4].tolist() == np.bincount(kind[values[:, 4] > 0], minlength=7).tolist()
    np.testing.assert_allclose(sum_by(own, kind)[4], kind[values[:, 4] > 0].sum())


def test_a_sure_rare_token_does_not_outrank_a_frequent_one():
    tokens = stream(domains=("plays",), documents=4)
    names = np.asarray(tokens.tokens)
    names[:] = 1
    names[:100], names[100] = 2, 3
    values = np.zeros((len(names), 1), np.float32)
    values[:95] = 1
    values[100] = 1
    tables = token_tables(codes(values, tokens), tokens, top=2)
    assert tables.by_rate[0].tolist() == [2, 3]
    assert tables.rate[0].tolist() == [0.95, 1.0]


def test_positions_stand_out_where_they_are_planted(told):
    tokens, _, own = told
    table = latent_statistics(own, tokens, word, seed=3, top=4)
    row = dict(zip(table.columns, zip(*table.iter_rows(), strict=True), strict=True))
    assert row["seed"] == (3,) * 6
    assert row["top_tokens"][0] == [" w5"]
    assert row["top_shares"][0] == pytest.approx([1.0])
    assert row["rates"][0] == [1.0]
    assert row["token_entropy"][0] == pytest.approx(0)
    assert row["context_first_share"][1] == 1
    assert row["context_position"][1] == 0
    assert row["context_entropy"][1] == 0
    assert row["context_excess"][1] == pytest.approx(np.log(32), abs=0.2)
    assert row["document_early_share"][2] == 1
    assert row["document_excess"][2] > 1
    for latent in (4, 5):  # random firings: as uniform as chance has it
        assert row["context_entropy"][latent] == pytest.approx(1, abs=0.02)
        assert abs(row["context_excess"][latent]) < 0.03
        assert abs(row["document_excess"][latent]) < 0.03
    assert row["firings"][3] == 0
    assert row["top_tokens"][3] == []
    for name in ("token_entropy", "context_position", "context_entropy", "document_excess"):
        assert row[name][3] is None


def test_document_positions_start_anew(told):
    tokens, _, _ = told
    assert document_positions(tokens)[: 10 * CONTEXT + 2].tolist() == [*range(10 * CONTEXT), 0, 1]
