"""Copies are found in the same words, in another spelling and inside of longer texts; strangers are not."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_corpora import corpus, prose

from heredity.corpora import duplicates
from heredity.corpora.documents import Document
from heredity.corpora.duplicates import THRESHOLD, find_copies, shingles, similarity, skeleton

SPEECH = (
    "Now is the winter of our discontent made glorious summer by this sun of York, and all the clouds that"
    " lour'd upon our house in the deep bosom of the ocean buried. Now are our brows bound with victorious"
    " wreaths, our bruised arms hung up for monuments, our stern alarums changed to merry meetings."
)
FOLIO = (
    "Now is the Winter of our Discontent, made glorious Summer by this Son of Yorke: and all the clouds that"
    " lowr'd vpon our house in the deepe bosome of the Ocean buried. Now are our browes bound with Victorious"
    " Wreathes, our bruised armes hung vp for Monuments; our sterne Alarums chang'd to merry Meetings."
)


def doc(key: str, text: str) -> Document:
    return Document(key, key.partition("/")[0], text)


def of(first: str, second: str) -> float:
    return similarity(*shingles([first, second]))


@pytest.mark.parametrize(
    ("first", "second"),
    [("love", "loue"), ("judge", "Iudge"), ("only", "onely"), ("music", "musick"), ("publick", "public"),
     ("upon", "vpon"), ("soldiers", "Souldiers"), ("dream", "dreame"), ("prophesie", "profesy")],
)  # fmt: skip
def test_spellings_of_a_word_share_a_skeleton(first: str, second: str) -> None:
    assert skeleton(first) == skeleton(second) != ""


@pytest.mark.parametrize(
    ("first", "second"), [("king", "queen"), ("cat", "dog"), ("sword", "word"), ("x1", "x2")]
)
def test_different_words_keep_different_skeletons(first: str, second: str) -> None:
    assert skeleton(first) != skeleton(second)


def test_another_spelling_is_a_copy_and_another_text_is_not() -> None:
    assert of(SPEECH, SPEECH) == 1
    assert of(SPEECH, FOLIO) > 2 * THRESHOLD
    assert of(SPEECH, prose(1)) == 0
    assert len(np.intersect1d(SPEECH.split(), FOLIO.split())) < len(set(SPEECH.split())) * 0.6


def test_a_planted_copy_is_dropped_whatever_the_order() -> None:
    documents = corpus(30)
    rng = random.Random(0)
    words = documents[7].text.split()
    for position in rng.sample(range(len(words)), len(words) // 12):
        words[position] = "changed"
    planted = [
        doc("prose/near.txt", " ".join(words)),
        doc("prose/exact.txt", documents[3].text.upper() + "\n\n "),
    ]
    found = find_copies([*documents, *planted], seed=0)
    assert {(c.kind, frozenset({c.key, c.twin})) for c in found} == {
        ("near", frozenset({"prose/near.txt", "prose/007.txt"})),
        ("exact", frozenset({"prose/exact.txt", "prose/003.txt"})),
    }
    shuffled = [*documents, *planted]
    rng.shuffle(shuffled)
    assert find_copies(shuffled, seed=0) == found


def test_a_part_of_a_longer_text_is_a_copy_of_it() -> None:
    whole = prose(5, 2000)
    part = whole[len(whole) // 2 : len(whole) // 2 + 1500]
    found = find_copies([doc("a/part", part), doc("a/whole", whole), doc("a/other", prose(6, 500))], seed=0)
    assert [(c.key, c.twin, c.kind) for c in found] == [("a/part", "a/whole", "near")]
    assert found[0].similarity > 0.95


def test_copies_in_another_domain_are_found() -> None:
    found = find_copies([doc("a/x", SPEECH), doc("b/y", FOLIO), doc("b/z", prose(1))], seed=0)
    assert len(found) == 1
    assert {found[0].key, found[0].twin} == {"a/x", "b/y"}


def test_a_twin_is_always_kept() -> None:
    text = prose(9, 400)
    family = [doc(f"a/{n}", text + prose(20 + n, 10 * n)) for n in range(6)]
    family += [doc(f"a/{n}-again", d.text.upper()) for n, d in enumerate(family)]
    found = find_copies(family, seed=3)
    gone = {c.key for c in found}
    assert len(found) == len(gone) == 11
    assert not gone & {c.twin for c in found}


def test_short_texts_are_copies_only_when_equal() -> None:
    documents = [doc("a/1", "return x"), doc("a/2", "Return  X"), doc("a/3", "return y"), doc("a/4", "")]
    assert [c.kind for c in find_copies(documents, seed=0)] == ["exact"]
    assert find_copies([doc("a/1", "i")], seed=0) == []


def test_a_sample_of_shingles_finds_the_same_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [
        *corpus(20, words=1200),
        *(doc(f"copy/{d.key}", d.text + prose(77, 200)) for d in corpus(6, words=1200)),
    ]
    everything = find_copies(documents, seed=0)
    assert len(everything) == 6
    monkeypatch.setattr(duplicates, "_MOST_SHINGLES", 4000)
    monkeypatch.setattr(duplicates, "_ROWS", 7)
    assert find_copies(documents, seed=0) == everything


def test_more_copies_than_a_shingle_proposes_are_all_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_FIRST", 5)
    licence = prose(1, 200)
    documents = [doc(f"a/{n:02}", licence + prose(100 + n, 40)) for n in range(40)]
    assert len(find_copies([*documents, *corpus(10)], seed=0)) == 39


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(alphabet="abcdk \n", max_size=40), min_size=1, max_size=8), st.randoms())
def test_what_is_kept_holds_no_copies(texts: list[str], rng: random.Random) -> None:
    documents = [doc(f"a/{n}", text) for n, text in enumerate(texts)]
    found = find_copies(documents, seed=0)
    gone = {c.key for c in found}
    kept = [d for d in documents if d.key not in gone]
    assert kept
    assert find_copies(kept, seed=0) == []
    rng.shuffle(documents)
    assert find_copies(documents, seed=0) == found
