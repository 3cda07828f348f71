"""Find copies among documents."""

import re
from collections.abc import Sequence
from hashlib import blake2b

from msgspec import Struct

from heredity.corpora.documents import Document, keyed_order


class Copy(Struct, frozen=True):
    """A document that repeats another one, which is kept.

    Attributes:
        kind: `exact` (equal but for white space and case) or `near`.
        key: of the document to drop.
        twin: of the document that is kept.
        similarity: share of the smaller one's word sequences that the other has too; 1 for exact copies.
    """

    domain: str
    kind: str
    key: str
    twin: str
    similarity: float


def find_copies(documents: Sequence[Document], *, seed: int) -> list[Copy]:
    """Find the documents to drop so that no two of the rest are copies of each other."""
    first: dict[bytes, Document] = {}
    copies = []
    for document in keyed_order(list(documents), seed, "copies"):
        normal = re.sub(r"\s+", " ", document.text).strip().casefold()
        mark = blake2b(normal.encode(), digest_size=16).digest()
        twin = first.setdefault(mark, document)
        if twin is not document:
            copies.append(Copy(document.domain, "exact", document.key, twin.key, 1.0))
    return copies
