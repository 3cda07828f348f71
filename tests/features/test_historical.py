import numpy as np
import pytest
from planted import codes, dense, noisy, stream

from heredity.features.historical import count, historical_table, string_means
from heredity.features.lineage import Lineage
from heredity.features.verdicts import Tracking
from heredity.seeds import generator


@pytest.fixture(scope="module")
def tokens():
    return stream(documents=8, vocabulary=60)


def draw(name):
    return generator(0, name)


def strings_of(tokens):
    return np.asarray(tokens.tokens).astype(np.int64)


def oracle(a, b, strings, tau=0.8):
    """The rule as it is written: one pair at a time, over the strings that both have."""
    n = int(strings.max()) + 1
    means = []
    for values in (a, b):
        one = np.full((values.shape[1], n), np.nan)
        for latent in range(values.shape[1]):
            fires = values[:, latent] > 0
            for string in np.unique(strings[fires]):
                one[latent, string] = values[fires & (strings == string), latent].mean(dtype=np.float64)
        means.append(one)
    pairs, passed, sizes = 0, np.zeros((a.shape[1], b.shape[1]), bool), []
    for i, x in enumerate(means[0]):
        for j, y in enumerate(means[1]):
            both = ~np.isnan(x) & ~np.isnan(y)
            if both.sum() > 1:
                pairs += 1
                if np.corrcoef(x[both], y[both])[0, 1] >= tau:
                    passed[i, j] = True
                    sizes.append(both.sum())
    return pairs, passed, sizes


def test_equals_the_rule_as_it_is_written(tokens):
    a, b = (dense(tokens, 15, rate=0.003, seed=s) for s in (1, 2))
    b[:, :3] = noisy(a[:, :3], 0.1, 3)
    b[:, 14] = 0
    found = [string_means(codes(v, tokens), strings_of(tokens), share=1.0, draw=draw("all")) for v in (a, b)]
    got = count(*found, np.arange(15))
    pairs, passed, sizes = oracle(a, b, strings_of(tokens))
    assert got.pairs == pairs
    assert got.passed == passed.sum()
    np.testing.assert_array_equal(got.matched, passed.any(axis=1))
    np.testing.assert_array_equal(got.passed_by_strings, np.bincount(np.minimum(sizes, 10), minlength=11)[2:])
    assert got.tried == 15
    some = np.array([2, 7])
    assert count(*found, some).passed == passed[some].sum()
    back = count(*found[::-1], np.arange(15))
    np.testing.assert_array_equal(back.matched, passed.any(axis=0))
    assert back.tried == 14


def test_a_sample_is_a_part_of_the_firings(tokens):
    one = codes(dense(tokens, 5, rate=0.1, seed=1), tokens)
    strings = np.zeros(tokens.n_tokens, np.int64)  # one string: the mean is over all that is drawn
    whole, half = (string_means(one, strings, share=s, draw=draw("half")) for s in (1.0, 0.5))
    np.testing.assert_allclose(whole.mean, one.sums / one.firings)
    np.testing.assert_allclose(half.mean, whole.mean, rtol=0.1)
    assert (half.mean != whole.mean).all()


def test_the_rule_finds_matches_in_noise_where_ours_finds_none(tokens):
    family = {
        name: [codes(dense(tokens, 60, rate=0.012, seed=s), tokens, name)] for s, name in enumerate("ab")
    }
    made = historical_table(Lineage(family, [("a", "b")], tokens, Tracking(resamples=20), seed=0), tokens)
    assert made["codes"].to_list() == ["observed", "shifted"]
    for row in made.iter_rows(named=True):
        assert row["persist"] > 0.2
        assert row["passed_share"] > 0.003
        assert row["passed_of_two"] <= row["passed_below_ten"] <= 1
        assert row["ours"] == 0


def test_what_is_shared_is_found_by_both(tokens):
    height = draw("height").uniform(0.5, 4, (30, 30))  # each latent has a height of its own on each string
    strings = np.arange(60) // 2
    base = dense(tokens, 30, rate=0.05, seed=1) * height[strings[strings_of(tokens)]].astype(np.float32)
    twin = {"a": [codes(base, tokens, "a")], "b": [codes(noisy(base, 0.05, 2), tokens, "b")]}
    row = historical_table(
        Lineage(twin, [("a", "b")], tokens, Tracking(resamples=20), seed=0), tokens, strings
    ).row(0, named=True)
    assert row["ours"] == 1
    assert row["pairs"] == 30 * 30
    assert row["persist"] > 0.9
