"""Divide documents between train, validation and test: by keyed hash, never by position, without copies.

A document that repeats another, in the same words or in another spelling, is dropped before the split, so
that no text is in two splits (nor twice in one).
"""

from collections.abc import Sequence

import polars as pl
from msgspec import Struct

from heredity.corpora.documents import Document, keyed_order
from heredity.corpora.duplicates import find_copies
from heredity.errors import ConfigError, CorpusError

NAMES = ("train", "validation", "test")
_FEWEST = 2  # documents of each held-out split, where the domain has enough


class Splits(Struct, frozen=True):
    """The documents of each split, domain by domain in the order given, sorted by key; and what was dropped.

    Attributes:
        dropped: table of domain, split (where the twin is), kind (exact, near), key, twin, similarity.
    """

    train: list[Document]
    validation: list[Document]
    test: list[Document]
    dropped: pl.DataFrame

    def of(self, name: str) -> list[Document]:
        """Return a split by its name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def split(
    documents: Sequence[Document], *, seed: int, fractions: tuple[float, float, float] = (0.75, 0.10, 0.15)
) -> Splits:
    """Drop copies, then divide each domain's documents by their bytes.

    Documents are taken in the order of a keyed hash of their key. Each held-out split gets at least two
    documents (one, where a domain has less than six), however large they are.

    Args:
        documents: of any number of domains, in any order: the result does not depend on it.
        seed: of the keyed hash.
        fractions: of a domain's bytes, for train, validation and test.

    Raises:
        ConfigError: the fractions are not positive or do not add up to 1.
        CorpusError: a domain has less than three distinct documents.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ConfigError(
            f"split fractions {fractions} must be positive and add up to 1", "for example 0.75, 0.10, 0.15"
        )
    if not documents:
        raise CorpusError("no documents to split", "check the corpora")
    copies = find_copies(documents, seed=seed)
    gone = {copy.key for copy in copies}
    kept = [d for d in documents if d.key not in gone]
    home: dict[str, str] = {}
    domains = list(dict.fromkeys(d.domain for d in documents))
    for domain in domains:
        home |= _divide([d for d in kept if d.domain == domain], domain, seed, fractions)
    dropped = pl.DataFrame(
        [(c.domain, home[c.twin], c.kind, c.key, c.twin, c.similarity) for c in copies],
        schema={
            "domain": pl.String, "split": pl.String, "kind": pl.String, "key": pl.String, "twin": pl.String,
            "similarity": pl.Float64,
        },
        orient="row",
    )  # fmt: skip
    ordered = sorted(kept, key=lambda d: (domains.index(d.domain), d.key))
    train, validation, test = ([d for d in ordered if home[d.key] == name] for name in NAMES)
    return Splits(train, validation, test, dropped)


def _divide(
    documents: list[Document], domain: str, seed: int, fractions: tuple[float, float, float]
) -> dict[str, str]:
    if len(documents) < len(NAMES):
        raise CorpusError(
            f"domain {domain!r} has {len(documents)} distinct documents, a split needs {len(NAMES)}",
            "add text, or group its records into smaller documents",
        )
    fewest = _FEWEST if len(documents) >= len(NAMES) * _FEWEST else 1
    left = keyed_order(documents, seed, "split")
    size = {d.key: d.size_bytes for d in documents}
    total = sum(size.values())
    home: dict[str, str] = {}
    for name, fraction, others in (("test", fractions[2], 2 * fewest), ("validation", fractions[1], fewest)):
        taken = _take(left, size, fraction * total, fewest, len(left) - others)
        home |= dict.fromkeys(taken, name)
        left = [d for d in left if d.key not in home]
    return home | {d.key: "train" for d in left}


def _take(order: list[Document], size: dict[str, int], target: float, fewest: int, most: int) -> list[str]:
    """Take documents in order until the target is met.

    One of more than half the target is passed over, as it would be most of what is measured, and so is one
    that overshoots by more than it brings nearer. Where that leaves too few, ordinary ones follow, in order.
    """
    taken: dict[str, None] = {}
    total = 0
    for document in order:
        if total >= target or len(taken) == most:
            break
        if size[document.key] <= target / 2 and total + size[document.key] / 2 <= target:
            taken[document.key] = None
            total += size[document.key]
    middle = sorted(size[d.key] for d in order)[len(order) // 2]
    ordinary = [d.key for d in order if d.key not in taken and size[d.key] <= middle]
    return [*taken, *ordinary[: max(0, fewest - len(taken))]]
