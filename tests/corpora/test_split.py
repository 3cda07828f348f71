"""A split is by document: disjoint, whole, independent of order, near its fractions and never empty."""

import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_corpora import corpus, prose

from heredity.corpora.documents import Document
from heredity.corpora.duplicates import THRESHOLD, shingles, similarity
from heredity.corpora.split import NAMES, Splits, split
from heredity.corpora.table import corpora_table
from heredity.errors import ConfigError, CorpusError

FRACTIONS = (0.75, 0.10, 0.15)


def sized(sizes: list[int], domain: str = "d") -> list[Document]:
    """Documents of given lengths that share no words at all."""
    return [Document(f"{domain}/{n}", domain, chr(0x4E00 + n) * size) for n, size in enumerate(sizes)]


def keys(splits: Splits) -> dict[str, list[str]]:
    return {name: [d.key for d in splits.of(name)] for name in NAMES}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=3, max_size=60), st.integers(0, 5), st.randoms())
def test_every_document_is_in_one_split_whatever_the_order(
    sizes: list[int], seed: int, rng: random.Random
) -> None:
    documents = sized(sizes)
    result = split(documents, seed=seed)
    found = keys(result)
    assert sorted(k for name in NAMES for k in found[name]) == sorted(d.key for d in documents)
    fewest = 2 if len(sizes) >= 6 else 1
    assert all(len(found[name]) >= fewest for name in NAMES)
    rng.shuffle(documents)
    assert keys(split(documents, seed=seed)) == found


@pytest.mark.parametrize("count", [37, 100, 1000])
def test_the_bytes_follow_the_fractions(count: int) -> None:
    rng = random.Random(count)
    documents = sized([rng.randint(60_000, 180_000) // 100 for _ in range(count)])
    total = sum(d.size_bytes for d in documents)
    result = split(documents, seed=0)
    for name, fraction in zip(NAMES, FRACTIONS, strict=True):
        share = sum(d.size_bytes for d in result.of(name)) / total
        assert share == pytest.approx(fraction, abs=0.6 / count + 0.01)


def test_a_giant_document_empties_no_split() -> None:
    for seed in range(10):
        result = split(sized([10**5, *[100] * 20]), seed=seed)
        assert "d/0" in keys(result)["train"]
        assert min(len(result.validation), len(result.test)) >= 2


def test_no_document_is_most_of_what_is_measured() -> None:
    sizes = [400, 330, 190, *[10] * 170]  # two of more than half of the test split's share
    for seed in range(20):
        result = split(sized(sizes), seed=seed)
        assert {"d/0", "d/1"} <= set(keys(result)["train"])
        assert max(d.size_bytes for d in result.test) <= sum(d.size_bytes for d in result.test) / 2


def test_few_documents_are_still_chosen_by_the_seed() -> None:
    chosen = {tuple(keys(split(sized([100 + n for n in range(8)]), seed=seed))["test"]) for seed in range(20)}
    assert len(chosen) > 4


def test_the_seed_chooses_and_position_does_not() -> None:
    documents = sized([100] * 40)
    first, again, other = (keys(split(documents, seed=s)) for s in (0, 0, 1))
    assert first == again != other
    ends = {f"d/{n}" for n in range(6)} | {f"d/{n}" for n in range(34, 40)}
    assert not set(first["test"]) <= ends


def test_domains_are_split_each_for_itself_and_keep_their_order() -> None:
    plays, code = sized([100] * 10, "plays"), sized([50] * 30, "code")
    alone = keys(split(plays, seed=0))
    # the same characters in both would be copies: the second domain has its own
    code = [Document(d.key, d.domain, chr(0x5E00 + n) * 50) for n, d in enumerate(code)]
    both = split([*plays, *code], seed=0)
    for name in NAMES:
        assert [k for k in keys(both)[name] if k.startswith("plays/")] == alone[name]
        assert [d.domain for d in both.of(name)] == sorted((d.domain for d in both.of(name)), reverse=True)


def test_no_text_is_on_both_sides() -> None:
    documents = corpus(40)
    documents += [
        Document(f"prose/copy{n}", "prose", d.text + prose(n, 60)) for n, d in enumerate(documents[:10])
    ]
    documents += [Document("prose/same", "prose", documents[20].text.upper())]
    result = split(documents, seed=0)
    assert result.dropped["kind"].value_counts(sort=True).rows() == [("near", 10), ("exact", 1)]
    assert result.dropped.columns == ["domain", "split", "kind", "key", "twin", "similarity"]
    for row in result.dropped.iter_rows(named=True):
        assert row["twin"] in keys(result)[row["split"]]
        assert row["similarity"] >= THRESHOLD
    train = list(shingles([d.text for d in result.train]))
    for held_out in shingles([d.text for d in (*result.validation, *result.test)]):
        assert max(similarity(held_out, other) for other in train) < THRESHOLD


def test_no_copies_give_an_empty_table_with_its_columns() -> None:
    dropped = split(sized([10] * 5), seed=0).dropped
    assert dropped.shape == (0, 6)
    assert dropped.schema["similarity"] == pl.Float64


def test_the_table_counts_what_is_there() -> None:
    documents = [*corpus(20), Document("prose/same", "prose", corpus(20)[4].text + "\n")]
    result = split(documents, seed=0)
    table = corpora_table(result, {})
    assert table.columns == [
        "domain",
        "split",
        "documents",
        "bytes",
        "tokens",
        "dropped_exact",
        "dropped_near",
    ]
    assert table["split"].to_list() == list(NAMES)
    assert table["documents"].sum() == 20
    assert table["bytes"].sum() == sum(d.size_bytes for name in NAMES for d in result.of(name))
    assert (table["dropped_exact"].sum(), table["dropped_near"].sum(), table["tokens"].sum()) == (1, 0, 0)


def test_too_few_documents_and_bad_fractions_are_said() -> None:
    with pytest.raises(CorpusError, match="no documents"):
        split([], seed=0)
    with pytest.raises(CorpusError, match="'d' has 2 distinct documents, a split needs 3"):
        split(sized([5, 5]), seed=0)
    with pytest.raises(CorpusError, match="has 1 distinct"):
        split([Document(f"d/{n}", "d", "the same text") for n in range(9)], seed=0)
    for fractions in ((0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (0.9, 0.2, -0.1)):
        with pytest.raises(ConfigError, match="must be positive and add up to 1"):
            split(sized([5] * 9), seed=0, fractions=fractions)
