"""Count, element by element, what members changed and whether they changed it in the same direction."""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from heredity.kernels.gram import CHUNK, load

WORDS = CHUNK // 64


@intrinsic
def count_ones(context, word):  # type: ignore[no-untyped-def]
    """Count the bits of a uint64 that are set."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@njit(cache=True, nogil=True)
def count_elements(raw, codes, n, first, rows, changed, negative, both, agree):  # type: ignore[no-untyped-def]
    """Add to `both` and `agree` for n elements.

    Args:
        raw: uint8[R, at least n · bytes per element]; row 0 is the reference, each row aligned.
        codes: int64[R], as for `gram.add_gram`.
        n: number of elements.
        first: rows before this one are known already: pairs among them are skipped.
        rows: float32[at least R, 1024] to work in.
        changed: uint64[R, 16] to work in.
        negative: uint64[R, 16] to work in.
        both: int64[R − 1, R − 1]: elements that both members changed; upper triangle with the diagonal.
        agree: int64[R − 1, R − 1]: of those, changed in the same direction.
    """
    members = len(codes) - 1
    for start in range(0, n, CHUNK):
        width = min(CHUNK, n - start)
        load(raw, codes, start, width, rows)
        for r in range(1, members + 1):
            rows[r, width:] = 0
            pack(rows[r], changed[r], negative[r])
        for i in range(members):
            for j in range(max(i, first - 1), members):
                total, same = compare(changed[i + 1], negative[i + 1], changed[j + 1], negative[j + 1])
                both[i, j] += total
                agree[i, j] += same


@njit(cache=True, nogil=True)
def pack(row, changed, negative):  # type: ignore[no-untyped-def]
    """Pack which of 1024 differences are not zero, and which are negative, into 16 words each."""
    for word in range(WORDS):
        part = row[64 * word : 64 * word + 64]
        differs = np.uint64(0)
        below = np.uint64(0)
        for bit in range(64):
            differs |= np.uint64(part[bit] != 0) << np.uint64(bit)
            below |= np.uint64(part[bit] < 0) << np.uint64(bit)
        changed[word] = differs
        negative[word] = below


@njit(cache=True, nogil=True)
def compare(changed_a, negative_a, changed_b, negative_b):  # type: ignore[no-untyped-def]
    """Count elements that both changed, and those of one sign."""
    total = np.uint64(0)
    same = np.uint64(0)
    for word in range(WORDS):
        shared = changed_a[word] & changed_b[word]
        total += count_ones(shared)
        same += count_ones(shared & ~(negative_a[word] ^ negative_b[word]))
    return np.int64(total), np.int64(same)
