"""The tables of a map against NumPy on the vectors, group by group."""

import numpy as np
import polars as pl
import pytest
from planted_weights import gram, normal, plus

from heredity.errors import ConfigError
from heredity.geometry.descent import descent, nearest_bases
from heredity.geometry.survey import Survey


@pytest.fixture(scope="module")
def family():
    rng = np.random.default_rng(0)
    base = normal(rng, 1.0)
    members = {}
    for data in "xyz":
        shared = normal(rng, 0.01)
        members |= {f"{data}{seed}": plus(base, shared, normal(rng, 0.01)) for seed in range(3)}
    return base, members


def test_pairs_agree_with_the_vectors_in_every_group(family):
    base, members = family
    survey = Survey(gram(base, members), base_known=True)
    steps = {name: [t - b for t, b in zip(model, base, strict=True)] for name, model in members.items()}
    for by, groups in (
        ("all", {"all": [0, 1, 2, 3]}),
        ("layer", {"layer 0": [1], "layer 1": [2], "outside": [0, 3]}),
    ):
        table = survey.pairs(by)
        assert table["group"].unique(maintain_order=True).to_list() == list(groups)
        for group, tensors in groups.items():
            row = table.filter(group=group, first="x0", second="y2").row(0, named=True)
            a, b = (np.concatenate([steps[name][t] for t in tensors]) for name in ("x0", "y2"))
            origin = np.concatenate([base[t] for t in tensors])
            assert row["cosine"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            assert row["pearson"] == pytest.approx(np.corrcoef(a, b)[0, 1])
            assert row["l2"] == pytest.approx(np.linalg.norm(a - b))
            assert row["relative"] == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(origin))
            assert row["sign_agreement"] is None


def test_scores_find_planted_data_sets_beside_their_nulls(family):
    survey = Survey(gram(*family), base_known=True)
    labels = {name: name[0] for name in survey.names}
    table = survey.scores("data", labels, draws=99)
    row = table.filter(method="spectral", score="accuracy").row(0, named=True)
    assert row["value"] == 1.0
    assert row["low"] == row["high"] == 1.0
    assert 1 / 3 < row["null_mean"] < 0.8
    gap = table.filter(score="separation").row(0, named=True)
    assert gap["value"] == pytest.approx(0.5, abs=0.02)
    assert gap["value"] > gap["null_p95"]
    assert survey.clusters().eigengap_k == 3
    with pytest.raises(ConfigError, match="label 'seed' has 9 values on 9 members"):
        survey.scores("seed", {name: name for name in survey.names})


def test_the_base_is_on_the_picture_of_places_only(family):
    survey = Survey(gram(*family), base_known=True)
    positions, trust = survey.layouts()
    assert positions.filter(picture="directions").height == 9
    assert positions.filter(picture="places")["model"][0] == "base"
    assert trust["stress"].is_between(0, 1).all()
    assert survey.dendrogram().height == 8
    centred = Survey(gram(*family).centre(), base_known=False)
    assert centred.layouts()[0].filter(picture="places").height == 9


def test_hulls_and_kinship(family):
    survey = Survey(gram(*family), base_known=True)
    hulls = survey.hulls({"x": ["x0", "x1", "x2"]})
    assert hulls.height == 9
    inside = hulls.filter(pl.col("inside"))["hull"].max()
    assert inside < hulls.filter(~pl.col("inside"))["hull"].min()
    kin = dict(survey.kinship().select("variant", "kinship").iter_rows())
    assert kin["cosine"] == pytest.approx(0.5 * 9 / 36, abs=0.01)


def test_descent_over_two_bases_by_rebasing():
    rng = np.random.default_rng(1)
    first, second = normal(rng, 1.0), normal(rng, 1.0)
    child = plus(second, normal(rng, 0.02))
    members = {
        "second": second,
        "a": plus(first, normal(rng, 0.02)),
        "b": child,
        "c": plus(child, normal(rng, 0.02)),
    }
    measured = gram(first, members)
    near = nearest_bases(measured, ["base", "second"])
    assert dict(near.select("member", "base").iter_rows()) == {"a": "base", "b": "second", "c": "second"}
    assert near["related"].all()
    found = descent(measured, {"base": ["a"], "second": ["b", "c"]})
    assert dict(found.select("member", "parents").iter_rows()) == {
        "base": [], "a": ["base"], "second": [], "b": ["second"], "c": ["b"],
    }  # fmt: skip
