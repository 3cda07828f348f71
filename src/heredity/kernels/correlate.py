"""Kernels for the correlation of all pairs of latents of two sparse codes: one accumulator row at a time.

Side a is feature-major (for each latent its tokens and values), side b token-major (for each token its
latents and values). For one latent of a, the products with every latent of b that fires on the same tokens
are summed in one dense float64 row, so memory grows with d_sae and never with its square.
"""

import numpy as np
from numba import njit, prange
from numpy import ndarray

from heredity.kernels.prefetch import prefetch


@njit(cache=True)
def _insert(latents: ndarray, scores: ndarray, latent: int, score: float) -> None:
    """Put a candidate at its place in a short list kept by falling score, then rising latent."""
    at = scores.shape[0] - 1
    while at > 0 and (score > scores[at - 1] or (score == scores[at - 1] and latent < latents[at - 1])):
        scores[at] = scores[at - 1]
        latents[at] = latents[at - 1]
        at -= 1
    scores[at] = score
    latents[at] = latent


_AHEAD = 8
"""Rows of b asked for before they are summed: they lie all over a table far larger than the caches."""


@njit(cache=True, fastmath=True)
def _accumulate(
    tokens: ndarray, values: ndarray, b_row: ndarray, b_indptr: ndarray, b_latents: ndarray,
    b_values: ndarray, begin: ndarray, end: ndarray, products: ndarray,
) -> None:  # fmt: skip
    """products[j] += Σ a · b_j over the tokens on which one latent of a fires."""
    total = tokens.shape[0]
    for n in range(total):
        row = b_row[tokens[n]]
        begin[n] = b_indptr[row]
        end[n] = b_indptr[row + 1]
    for n in range(total):
        ahead = min(n + _AHEAD, total - 1)
        first, last = begin[ahead], max(begin[ahead], end[ahead] - 1)
        prefetch(b_latents, first)
        prefetch(b_latents, last)
        prefetch(b_values, first)
        prefetch(b_values, (first + last) >> 1)
        prefetch(b_values, last)
        value = np.float64(values[n])
        for e in range(begin[n], end[n]):
            products[b_latents[e]] += value * b_values[e]


@njit(cache=True, fastmath=True)
def _to_r(
    products: ndarray, a_sum: float, a_inverse: float, b_mean: ndarray, b_inverse: ndarray, r: ndarray
) -> None:
    """r[j] = (Σab − Σa · mean b) / (‖a − ā‖ ‖b − b̄‖); the products are cleared."""
    for j in range(r.shape[0]):
        r[j] = (products[j] - a_sum * b_mean[j]) * (a_inverse * b_inverse[j])
        products[j] = 0


@njit(cache=True, parallel=True)
def top_matches(
    rows: ndarray, parts: int, a_starts: ndarray, a_tokens: ndarray, a_values: ndarray, a_sum: ndarray,
    a_inverse: ndarray, b_row: ndarray, b_indptr: ndarray, b_latents: ndarray, b_values: ndarray,
    b_mean: ndarray, b_inverse: ndarray, row_latent: ndarray, row_r: ndarray, column_latent: ndarray,
    column_r: ndarray, threshold: float, pairs: ndarray, pair_r: ndarray, n_pairs: ndarray,
) -> None:  # fmt: skip
    """Find each row's and each column's best candidates, and every pair from a threshold on.

    Args:
        rows: latents of a to take, int64. parts: workers; each has an accumulator and columns' lists of its
        own. a_starts, a_tokens, a_values: side a, feature-major. a_sum, a_inverse: Σa and 1/‖a − ā‖ of each
        latent (0 for a constant one). b_row: row of b that stands beside each token of a: the identity, or a
        shift. b_indptr, b_latents, b_values: side b, token-major. b_mean, b_inverse: as for a. row_latent,
        row_r: out [len(rows), top], prefilled with −1 and 0. column_latent, column_r: out [parts, d_sae of b,
        top], likewise; names are latents of a. threshold: pairs with r at or above it are listed too. pairs,
        pair_r, n_pairs: out [parts, room, 2], [parts, room], [parts]; beyond the room they are counted only.
    """
    width = b_mean.shape[0]
    for part in prange(parts):
        products = np.zeros(width, np.float64)
        r = np.empty(width, np.float64)
        least = np.zeros(width, np.float64)
        longest = 0
        for at in range(part, rows.shape[0], parts):
            longest = max(longest, a_starts[rows[at] + 1] - a_starts[rows[at]])
        begin, end = np.empty(longest, np.int64), np.empty(longest, np.int64)
        own_latent, own_r = column_latent[part], column_r[part]
        for at in range(part, rows.shape[0], parts):
            i = rows[at]
            start, stop = a_starts[i], a_starts[i + 1]
            if stop == start:
                continue
            _accumulate(
                a_tokens[start:stop],
                a_values[start:stop],
                b_row,
                b_indptr,
                b_latents,
                b_values,
                begin,
                end,
                products,
            )
            _to_r(products, a_sum[i], a_inverse[i], b_mean, b_inverse, r)
            n_pairs[part] = _take(
                i, r, row_latent[at], row_r[at], own_latent, own_r, least, threshold, pairs[part], pair_r[part],
                n_pairs[part],
            )  # fmt: skip


@njit(cache=True)
def _take(
    i: int, r: ndarray, row_latent: ndarray, row_r: ndarray, column_latent: ndarray, column_r: ndarray,
    least: ndarray, threshold: float, pairs: ndarray, pair_r: ndarray, n: int,
) -> int:  # fmt: skip
    """Enter the r of latent i of a into the lists; `least` is the smallest that each column keeps."""
    last = row_r.shape[0] - 1
    listed = np.nextafter(threshold, 0.0)  # r ≥ threshold is r > this
    for start in range(0, r.shape[0], _SCREEN):
        stop = min(start + _SCREEN, r.shape[0])
        if not _promising(r[start:stop], least[start:stop], min(row_r[last], listed)):
            continue
        for j in range(start, stop):
            score = r[j]
            if score > row_r[last]:
                _insert(row_latent, row_r, j, score)
            if score > least[j]:
                _insert(column_latent[j], column_r[j], i, score)
                least[j] = column_r[j, last]
            if score > listed:
                if n < pair_r.shape[0]:
                    pairs[n, 0] = i
                    pairs[n, 1] = j
                    pair_r[n] = score
                n += 1
    return n


_SCREEN = 64
"""Columns looked at together: hardly any hold something for a list."""


@njit(cache=True, fastmath=True)
def _promising(r, least, bound):  # type: ignore[no-untyped-def]
    most = np.float64(-1)
    for j in range(r.shape[0]):
        most = max(most, r[j] - min(least[j], bound))
    return most > 0


@njit(cache=True)
def take_rows(
    rows: ndarray, products: ndarray, first: int, a_sum: ndarray, a_inverse: ndarray, b_mean: ndarray,
    b_inverse: ndarray, row_latent: ndarray, row_r: ndarray, column_latent: ndarray, column_r: ndarray,
    threshold: float, pairs: ndarray, pair_r: ndarray, n: int,
) -> int:  # fmt: skip
    """Do what `top_matches` does with Σab of some rows that are already known; return the pairs listed so far.

    Args:
        rows, a_sum, a_inverse, b_mean, b_inverse, row_latent, row_r, threshold: as there. products: Σab of
        rows[first : first + len(products)], float64; cleared. column_latent, column_r, pairs, pair_r: as there,
        of one worker. n: pairs listed before.
    """
    r, least = np.empty(products.shape[1], np.float64), column_r[:, -1].copy()
    for place in range(products.shape[0]):
        at = first + place
        i = rows[at]
        _to_r(products[place], a_sum[i], a_inverse[i], b_mean, b_inverse, r)
        n = _take(
            i, r, row_latent[at], row_r[at], column_latent, column_r, least, threshold, pairs, pair_r, n
        )
    return n


@njit(cache=True)
def spread(
    indptr: ndarray, latents: ndarray, values: ndarray, token: ndarray, column: ndarray, out: ndarray
) -> None:
    """out[t, column of latent] = value for the codes of some tokens; column −1: left out. `out` is cleared first."""
    out[:] = 0
    for t in range(token.shape[0]):
        for e in range(indptr[token[t]], indptr[token[t] + 1]):
            place = column[latents[e]]
            if place >= 0:
                out[t, place] = values[e]


@njit(cache=True)
def merge_columns(column_latent: ndarray, column_r: ndarray) -> None:
    """Merge the workers' column lists into the first one's."""
    parts, width, top = column_r.shape
    for part in range(1, parts):
        for j in range(width):
            for s in range(top):
                score, latent = column_r[part, j, s], column_latent[part, j, s]
                last = top - 1
                if latent >= 0 and (
                    score > column_r[0, j, last]
                    or (score == column_r[0, j, last] and latent < column_latent[0, j, last])
                ):
                    _insert(column_latent[0, j], column_r[0, j], latent, score)


@njit(cache=True)
def joint_firings(
    first: ndarray, second: ndarray, n_tokens: int,
    a_starts: ndarray, a_tokens: ndarray, b_row: ndarray, b_starts: ndarray, b_tokens: ndarray, out: ndarray,
) -> None:  # fmt: skip
    """out[p] = tokens on which both latents of pair p fire; one first latent's pairs together."""
    here = np.zeros((n_tokens >> 6) + 1, np.uint64)  # a bit per token of b
    marked = -1
    for p in range(first.shape[0]):
        i, j = first[p], second[p]
        out[p] = 0
        if i < 0 or j < 0:
            continue
        if i != marked:
            here[:] = 0
            for n in range(a_starts[i], a_starts[i + 1]):
                token = np.uint64(b_row[a_tokens[n]])
                here[token >> _SIX] |= _ONE << (token & _LAST)
            marked = i
        total = np.uint64(0)
        for n in range(b_starts[j], b_starts[j + 1]):
            token = np.uint64(b_tokens[n])
            total += here[token >> _SIX] >> (token & _LAST) & _ONE
        out[p] = total


_SIX, _LAST, _ONE = np.uint64(6), np.uint64(63), np.uint64(1)


@njit(cache=True)
def pair_sums(
    first: ndarray, second: ndarray, a_starts: ndarray, a_tokens: ndarray, a_values: ndarray,
    b_starts: ndarray, b_tokens: ndarray, b_values: ndarray, group: ndarray, out: ndarray,
) -> None:  # fmt: skip
    """out[g, p] = Σ a · b of pair p over the tokens of group g; one first latent's pairs together."""
    dense = np.zeros(group.shape[0], np.float32)
    filled = -1
    for p in range(first.shape[0]):
        i, j = first[p], second[p]
        if i < 0 or j < 0:
            continue
        if i != filled:
            if filled >= 0:
                for n in range(a_starts[filled], a_starts[filled + 1]):
                    dense[a_tokens[n]] = 0
            for n in range(a_starts[i], a_starts[i + 1]):
                dense[a_tokens[n]] = a_values[n]
            filled = i
        for n in range(b_starts[j], b_starts[j + 1]):
            value = dense[b_tokens[n]]
            if value != 0:
                out[group[b_tokens[n]], p] += np.float64(value) * b_values[n]


@njit(cache=True, parallel=True)
def group_sums(
    starts: ndarray, tokens: ndarray, values: ndarray, group: ndarray, total: ndarray, square: ndarray
) -> None:
    """total[g, j] = Σ b_j and square[g, j] = Σ b_j² over the tokens of group g."""
    for j in prange(starts.shape[0] - 1):
        for n in range(starts[j], starts[j + 1]):
            value = np.float64(values[n])
            total[group[tokens[n]], j] += value
            square[group[tokens[n]], j] += value * value


@njit(cache=True, parallel=True)
def resampled_best(
    products: ndarray, first: ndarray, second: ndarray, joint_ok: ndarray, top: int, n_tokens: ndarray,
    a_sum: ndarray, a_square: ndarray, b_sum: ndarray, b_square: ndarray, best: ndarray, best_joint: ndarray,
) -> None:  # fmt: skip
    """Take every latent's best r anew in each resample of the documents.

    Args:
        products: Σab of each pair in each resample [resamples, pairs]; `top` pairs in a row share their
        latent. first, second: latents of each pair; −1 for none. joint_ok: whether the pair fires together
        often enough to count as a match. top: pairs per latent. n_tokens: tokens in each resample. a_sum,
        a_square, b_sum, b_square: Σ and Σ² of every latent in each resample [resamples, latents]. best: out
        [resamples, latents], the best r of any pair. best_joint: out, the best r of a pair that fires
        together often enough.
    """
    for s in prange(products.shape[0]):
        n = n_tokens[s]
        for at in range(best.shape[1]):
            top_r = 0.0
            top_joint = 0.0
            for p in range(at * top, at * top + top):
                i, j = first[p], second[p]
                if j < 0:
                    continue
                spread = (a_square[s, i] - a_sum[s, i] ** 2 / n) * (b_square[s, j] - b_sum[s, j] ** 2 / n)
                if spread <= 1e-24 * a_square[s, i] * b_square[s, j]:
                    continue
                r = (products[s, p] - a_sum[s, i] * b_sum[s, j] / n) / np.sqrt(spread)
                top_r = max(top_r, r)
                if joint_ok[p]:
                    top_joint = max(top_joint, r)
            best[s, at] = top_r
            best_joint[s, at] = top_joint
