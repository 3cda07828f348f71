"""Planted rules are found again, and nothing is learned from the half on which they are scored."""

import numpy as np
import pytest
from planted import CONTEXT, codes, dense, stream

from heredity.errors import ConfigError
from heredity.features.explain import ExplanationError, Halves, build, explanations_table, name_of, names
from heredity.features.explain.rules import Rules

WORDS = [
    *(f" {i}" for i in range(10)),
    *(f" un{c}" for c in "abcdefghij"),
    *(f"{c}ing" for c in "abcdefghij"),
    "\n",
    *(f" w{i}" for i in range(31, 90)),
    *(f"{c}ed" for c in "abcdefghij"),
]  # fmt: skip
PLANTED = [
    "' w50'",
    "digits",
    "a token that starts with ' un'",
    "a token that ends with 'ing'",
    "after ' w60'",
    "after digits",
    "the first 2 tokens of a context",
    "the first 8 tokens of a document",
    "the first token of a line",
    "any token of python",
    "a token that ends with 'ing', after a token that starts with ' un'",
    "digits, in plays",
    "' w70', among the first 16 tokens of a line",
]


@pytest.fixture(scope="module")
def told():
    tokens = stream(documents=30)
    name = np.asarray(tokens.tokens).astype(int)
    words = np.array(WORDS)[name]
    place = np.arange(tokens.n_tokens)
    within, in_document, python = place % CONTEXT, place % (10 * CONTEXT), np.asarray(tokens.domain) == 1
    previous = np.where(within == 0, "", np.concatenate([[""], words[:-1]]))
    starts = np.concatenate([[True], words[:-1] == "\n"]) | (in_document == 0)
    line = place - np.maximum.accumulate(np.where(starts, place, 0))
    digits, un, ing = name < 10, (name >= 10) & (name < 20), (name >= 20) & (name < 30)
    after_digits = np.isin(previous, WORDS[:10])
    columns = [
        name == 50, digits, un, ing, previous == " w60", after_digits, within < 2, in_document < 8, line < 1,
        python, ing & np.char.startswith(previous, " un"), digits & ~python, (name == 70) & (line < 16),
    ]  # fmt: skip
    values = np.column_stack([*columns, dense(tokens, 3, rate=0.05, seed=1)]).astype(np.float32)
    values[:, -1] = 0
    return tokens, values, codes(values, tokens)


@pytest.fixture(scope="module")
def table(told):
    tokens, values, own = told
    return explanations_table(own, tokens, WORDS.__getitem__, range(values.shape[1]), seed=0)


@pytest.mark.parametrize("latent", range(len(PLANTED)))
def test_a_planted_rule_is_found(table, latent):
    row = table.row(latent, named=True)
    assert row["rule"] == PLANTED[latent]
    assert row["score"] > 0.99
    assert row["null_best"] < row["score"]
    assert row["failed"] is None


def test_a_random_latent_has_no_rule_that_holds_out(table):
    assert (table["score"][len(PLANTED) : -1].abs() < 0.06).all()
    assert table["null_score"].drop_nulls().abs().max() < 0.3


def test_a_latent_that_never_fires_fails_with_the_reason(table):
    row = table.row(-1, named=True)
    assert (row["rule"], row["score"], row["null_score"], row["n_nulls"]) == (None, None, None, 0)
    assert "no rule" in row["failed"]


def test_scores_are_pearson_on_the_held_out_contexts(told, table):
    tokens, values, own = told
    halves = Halves(tokens, WORDS.__getitem__, seed=0)
    starts = halves.held_out_contexts()
    at = (starts[:, None] + np.arange(CONTEXT)).ravel()
    assert table["n_contexts"].unique().to_list() == [len(starts)]
    with Rules().explaining(own, [13], halves, None) as (rule,):
        marks = rule.simulate(halves, starts, CONTEXT).values.ravel()
    assert table["score"][13] == pytest.approx(np.corrcoef(marks, values[at, 13])[0, 1], abs=1e-9)


def test_the_search_sees_one_half_only(told):
    tokens, values, _ = told
    halves = Halves(tokens, WORDS.__getitem__, seed=0)
    other = values.copy()
    other[~halves.first_tokens] = dense(tokens, values.shape[1], rate=0.3, seed=9)[~halves.first_tokens]
    texts = []
    for one in (values, other):
        with Rules().explaining(codes(one, tokens), range(13), halves, None) as rules:
            texts.append([rule.text for rule in rules])
    assert texts[0] == texts[1]


def test_halves_are_equal_in_every_domain(told):
    halves = Halves(told[0], WORDS.__getitem__, seed=3)
    for domain in (0, 1):
        own = halves.first[told[0].domain_of_block == domain]
        assert own.sum() == len(own) // 2


def test_a_second_condition_must_pay(told):
    tokens, values, _ = told
    mixed = values[:, [0]] * 1.0
    python = np.asarray(tokens.domain) == 1
    mixed[python, 0] *= 0.9  # a little less in python: true, and not worth a condition
    free, dear = (
        explanations_table(
            codes(mixed, tokens), tokens, WORDS.__getitem__, [0], seed=0, explainers=[Rules(penalty=p)]
        )["rule"][0]
        for p in (0.0, 0.03)
    )
    assert dear == "' w50'"
    assert free.startswith("' w50'")


def test_windows_are_held_out_and_half_of_them_fire(told):
    tokens, values, own = told
    halves = Halves(tokens, WORDS.__getitem__, seed=0)
    starts = halves.held_out_windows(own, 0, 10)
    assert len(set(starts.tolist())) == 10
    assert not halves.first_tokens[starts].any()
    fires = [values[start : start + halves.window_tokens, 0].any() for start in starts]
    assert sum(fires) >= 5
    assert halves.held_out_windows(own, 0, 10).tolist() == starts.tolist()
    assert (
        len(halves.held_out_windows(own, values.shape[1] - 1, 10)) == 10
    )  # one that never fires: all random
    few = explanations_table(
        own, tokens, WORDS.__getitem__, range(5), seed=0, explainers=[Rules(windows=10, nulls=2)]
    )
    assert few["n_contexts"].unique().to_list() == [10]
    assert (few["score"] > 0.99).all()
    assert few["n_nulls"].unique().to_list() == [2]


def test_explainers_are_found_by_file_and_by_entry_point(monkeypatch):
    assert names() == ("llm", "rules")
    assert build({"name": "rules", "nulls": 3}) == Rules(nulls=3)
    assert name_of(Rules()) == "rules"
    for settings, message in (
        ({"name": "rulez"}, "unknown explainer 'rulez'"),
        ({"nulls": 3}, "unknown explainer None"),
        ({"name": "rules", "beem": 3}, "beem"),
        ({"name": "rules", "nulls": 0}, "nulls"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(settings)

    class Outside:
        name = "outside"

        @staticmethod
        def load():
            return Oracle

    def outside(*, group, name="outside"):
        return [Outside] if (group, name) == ("heredity.explainers", "outside") else []

    monkeypatch.setattr("heredity.features.explain.entry_points", outside)
    assert names() == ("llm", "outside", "rules")
    assert build({"name": "outside", "nulls": 2}) == Oracle(nulls=2)
    assert name_of(Oracle()) == "outside"


class Oracle(Rules, frozen=True, kw_only=True):
    """Stands for another package's explainer."""


def test_an_explanation_that_cannot_be_simulated_is_marked_failed(told, monkeypatch):
    tokens, _, own = told
    before = build({"name": "rules"})

    def refuse(self, halves, starts, length):
        if self.text == "digits":
            raise ExplanationError("the dog ate it")
        return simulate(self, halves, starts, length)

    from heredity.features.explain.rules import Rule

    simulate = Rule.simulate
    monkeypatch.setattr(Rule, "simulate", refuse)
    table = explanations_table(own, tokens, WORDS.__getitem__, [0, 1, 2], seed=0, explainers=[before])
    assert table["failed"].to_list() == [None, "the dog ate it", None]
    assert table["score"][1] is None
    assert table["null_score"][1] is None
    assert table["n_nulls"].to_list() == [1, 0, 1]  # nobody can be scored with the words that failed
