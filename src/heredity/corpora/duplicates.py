"""Find documents that repeat others: in the same words, or in another spelling of them.

Editions of one play agree in few whole words (`love`, `loue`; `only`, `onely`), so words are compared by
their consonants, as spelling changes those least. The measure is the share of the smaller document's runs of
five such words that the larger one has too.  Source: containment of shingles, Broder 1997.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from jaxtyping import Int64, UInt64
from msgspec import Struct
from numpy import ndarray
from scipy import sparse

from heredity.corpora.documents import Document, keyed_order

THRESHOLD = 0.3  # of the smaller document; docs/corpora.md has the measured margin on both sides
_RUN = 5  # words of a shingle
_MOST_SHINGLES = 1 << 23  # beyond, a sample of them proposes pairs; each pair is then measured on all
_FIRST = 256  # a shingle proposes pairs with the first so many documents that have it: boilerplate has no end
_ROWS = 1024  # documents compared with all others at a time


class Copy(Struct, frozen=True):
    """A document that repeats another one, which is kept.

    Attributes:
        domain: of the copy.
        kind: `exact` (equal but for white space and case) or `near`.
        key: of the document to drop.
        twin: of the document that is kept.
        similarity: share of the smaller one's shingles that the larger one has too; 1 for exact copies.
    """

    domain: str
    kind: str
    key: str
    twin: str
    similarity: float


def find_copies(documents: Sequence[Document], *, seed: int) -> list[Copy]:
    """Find the documents to drop so that no two of the rest are copies, sorted by key.

    Of two copies the one with more distinct shingles is kept, as it is the more complete; equals are decided
    by a keyed hash. The result does not depend on the order of the documents.
    """
    if not documents:
        return []
    ordered = keyed_order(list(documents), seed, "copies")
    first: dict[bytes, Document] = {}
    repeated = []
    for document in ordered:
        twin = first.setdefault(_normal_digest(document.text), document)
        if twin is not document:
            repeated.append((document, twin.key))
    near = _near_copies(list(first.values()))
    moved = {copy.key: copy.twin for copy in near}  # the twin of an exact copy may itself be a near copy
    exact = [Copy(d.domain, "exact", d.key, moved.get(twin, twin), 1.0) for d, twin in repeated]
    return sorted([*exact, *near], key=lambda c: c.key)


def similarity(first: UInt64[ndarray, " n"], second: UInt64[ndarray, " m"]) -> float:
    """Return the share of the smaller set of shingles that the other has too, from 0 to 1."""
    smaller = min(len(first), len(second))
    return len(np.intersect1d(first, second, assume_unique=True)) / smaller if smaller else 0.0


def shingles(texts: Iterable[str]) -> Iterator[UInt64[ndarray, " n"]]:
    """Yield, for each text, the sorted distinct hashes of its runs of five words, by their skeletons."""
    hashes: dict[str, int] = {}
    for text in texts:
        found = []
        for word in _WORD.findall(text):
            value = hashes.get(word)
            if value is None:
                value = hashes[word] = _word_hash(skeleton(word))
            if value:
                found.append(value)
        yield _run_hashes(np.array(found, dtype=np.uint64))


def skeleton(word: str) -> str:
    """Reduce a word to what its spellings have in common: consonants that were not exchanged for one another.

    >>> [skeleton(w) for w in ("love", "loue", "Iudge", "judge", "onely", "only", "musick", "music", "I")]
    ['l', 'l', 'dg', 'dg', 'nl', 'nl', 'msk', 'msk', '']
    """
    plain = word.casefold().replace("ph", "f").translate(_SAME_SOUND)
    return _DOUBLED.sub(r"\1", _FICKLE.sub("", plain))


_WORD = re.compile(r"[^\W_]+")
_FICKLE = re.compile(r"[aeiouyjvwh]")  # u for v, i for j, a silent e or h: no two presses agree on them
_SAME_SOUND = str.maketrans("cqz", "kks")
_DOUBLED = re.compile(r"(.)\1+")


def _near_copies(distinct: list[Document]) -> list[Copy]:
    """Go from the most complete document to the least, and drop each that repeats one that was kept."""
    sample, sizes, whole = _sample(distinct)
    order = sorted(range(len(distinct)), key=lambda i: -sizes[i])
    sample, distinct = [sample[i] for i in order], [distinct[i] for i in order]

    @lru_cache(maxsize=1024)
    def full(number: int) -> UInt64[ndarray, " n"]:
        return sample[number] if whole else next(shingles([distinct[number].text]))

    dropped: set[int] = set()
    copies = []
    for later, earlier in _proposed(sample):
        found = [(similarity(full(later), full(e)), -e) for e in earlier if e not in dropped]
        best, twin = max(found, default=(0.0, 0))
        if best >= THRESHOLD:
            dropped.add(later)
            copy = distinct[later]
            copies.append(Copy(copy.domain, "near", copy.key, distinct[-twin].key, round(best, 4)))
    return copies


def _sample(documents: list[Document]) -> tuple[list[UInt64[ndarray, " n"]], list[int], bool]:
    """Return each document's shingles below one limit, how many it has, and whether there is no limit."""
    kept: list[UInt64[ndarray, " n"]] = []
    sizes, total, limit = [], 0, 2**64 - 1
    for found in shingles(d.text for d in documents):
        kept.append(_below(found, limit))
        sizes.append(len(found))
        total += len(kept[-1])
        while total > _MOST_SHINGLES and limit > 1:
            limit //= 2  # the hashes are uniform: half of them go
            kept = [_below(some, limit) for some in kept]
            total = sum(map(len, kept))
    return kept, sizes, limit == 2**64 - 1


def _below(found: UInt64[ndarray, " n"], limit: int) -> UInt64[ndarray, " m"]:
    return found[: np.searchsorted(found, np.uint64(limit), side="right")].copy()


def _proposed(sample: list[UInt64[ndarray, " n"]]) -> Iterator[tuple[int, list[int]]]:
    """Yield each document, in order, with those before it that may be its copies."""
    every, first = _incidence(sample)
    sizes = np.maximum(np.diff(every.indptr), 1)
    for start in range(0, len(sample), _ROWS):
        shared = (every[start : start + _ROWS] @ first.T).tocsr()
        for row in range(shared.shape[0]):
            later = start + row
            columns = shared.indices[shared.indptr[row] : shared.indptr[row + 1]]
            counts = shared.data[shared.indptr[row] : shared.indptr[row + 1]]
            share = counts / np.minimum(sizes[columns], sizes[later])
            earlier = np.sort(columns[(columns < later) & (share >= THRESHOLD / 2)])
            if len(earlier):
                yield later, [int(e) for e in earlier]


def _incidence(sample: list[UInt64[ndarray, " n"]]) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Return documents × shingles as ones: of every document, and of the first documents of each shingle.

    Shingles of a single document are left out: they are shared by no pair.
    """
    rows: Int64[ndarray, " n"] = np.repeat(np.arange(len(sample)), [len(s) for s in sample])
    _, columns, frequency = np.unique(np.concatenate(sample), return_inverse=True, return_counts=True)
    shared = frequency[columns] > 1
    rows, columns = rows[shared], (np.cumsum(frequency > 1) - 1)[columns[shared]]
    by_shingle = np.argsort(columns, kind="stable")  # the rows of one shingle stay in order
    starts = np.cumsum(frequency[frequency > 1]) - frequency[frequency > 1]
    rank = np.empty_like(by_shingle)
    rank[by_shingle] = np.arange(len(by_shingle)) - starts[columns[by_shingle]]
    shape = (len(sample), max(1, len(starts)))
    every, first = (
        sparse.csr_array(
            (np.ones(int(inside.sum()), dtype=np.int32), (rows[inside], columns[inside])), shape=shape
        )
        for inside in (np.ones(len(rows), dtype=bool), rank < _FIRST)
    )
    return every, first


def _run_hashes(words: UInt64[ndarray, " n"]) -> UInt64[ndarray, " m"]:
    count = len(words) - _RUN + 1
    if count < 1:
        return np.zeros(0, dtype=np.uint64)
    mixed = np.zeros(count, dtype=np.uint64)
    for offset in range(_RUN):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) ^ words[offset : offset + count]
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    return np.unique(mixed)


def _word_hash(word: str) -> int:
    if not word:
        return 0
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little") or 1


def _normal_digest(text: str) -> bytes:
    return blake2b(" ".join(text.casefold().split()).encode(), digest_size=16).digest()
