"""Pearson correlation of all pairs of latents of two SAEs on the same tokens, never d_sae × d_sae numbers.

r = (Σab − Σa Σb / N) / (‖a − ā‖ ‖b − b̄‖) with zeros counted. Products are sparse, summed in float64; where so
many latents fire that dense ones are faster, they are dense float32 of 2048 tokens each, summed in float64.
"""

from functools import cached_property

import numba
import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64
from msgspec import Struct
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.features.codes import Codes
from heredity.features.product import by_rows
from heredity.kernels import correlate as kernel

_ROOM = 1 << 16


class Candidates(Struct, frozen=True, eq=False):
    """For each latent of one side, its best partners on the other, by falling r.

    Attributes:
        latent: [latents, top]; −1 where fewer partners correlate positively.
        r: [latents, top]; 0 there.
        joint: [latents, top] tokens on which both fire; −1 where that was not counted.
    """

    latent: Int32[ndarray, "latents top"]
    r: Float64[ndarray, "latents top"]
    joint: Int64[ndarray, "latents top"]


class Matches(Struct, eq=False, dict=True):
    """The correlation of two codes, seen from both sides.

    Attributes:
        forward: partners in b of each latent of a.
        backward: partners in a of each latent of b.
        first, second, r: every pair with r ≥ the threshold, in order of (first, second).
    """

    forward: Candidates
    backward: Candidates
    first: Int32[ndarray, " pairs"]
    second: Int32[ndarray, " pairs"]
    r: Float64[ndarray, " pairs"]
    a: Codes
    b: Codes

    @cached_property
    def joint(self) -> Int64[ndarray, " pairs"]:
        """Tokens on which both latents of each listed pair fire."""
        return _joint(self.a, self.b, identity(self.a.n_tokens), self.first, self.second)


def correlate(
    a: Codes, b: Codes, *, top: int = 8, threshold: float = 0.4, count_from: float = 0.0
) -> Matches:
    """Correlate every latent of a with every latent of b.

    Args:
        a, b: codes over the same stream.
        top: partners kept per latent, on each side.
        threshold: every pair at or above it is listed as well.
        count_from: joint firings are counted for the best partner and for those with at least this r.

    Raises:
        MismatchError: the codes are over different streams.
        ConfigError: `top` or `threshold` is out of range.
    """
    if top < 1 or not 0 < threshold <= 1:
        raise ConfigError(f"top {top}, threshold {threshold}: out of range", "top ≥ 1, 0 < threshold ≤ 1")
    a.check_same_tokens(b)
    rows, same = np.arange(a.d_sae), identity(a.n_tokens)
    forward, backward, first, second, r = _top(a, b, rows, same, top, threshold)
    own = np.repeat(np.arange(a.d_sae), top)
    other = np.repeat(np.arange(b.d_sae), top)
    return Matches(
        _counted(a, b, own, forward, count_from),
        _counted(b, a, other, backward, count_from),
        first, second, r, a, b,
    )  # fmt: skip


def best_against(
    a: Codes,
    b: Codes,
    rows: Int64[ndarray, " rows"],
    b_row: Int32[ndarray, " tokens"],
    *,
    top: int,
    min_joint: int,
    least: float,
) -> tuple[Float64[ndarray, " rows"], Float64[ndarray, " rows"]]:
    """Return the best r of some latents of a against b with its tokens rearranged.

    Args:
        a, b: codes over streams of equal length.
        rows: latents of a.
        b_row: which token of b stands beside each token of a.
        top: candidates considered.
        min_joint: joint firings of a match.
        least: joint firings are counted only for candidates with at least this r.

    Returns:
        the best r, and the best r of a candidate with enough joint firings; 0 where there is none.
    """
    (latent, r), *_ = _top(a, b, rows, b_row, top, 2.0)
    worth = np.where(r >= least, latent, -1)
    joint = _joint(a, b, b_row, np.repeat(rows, top), worth.ravel()).reshape(r.shape)
    return r[:, 0], np.where(joint >= min_joint, r, 0.0).max(axis=1)


def paired(
    a: Codes, b: Codes, first: Int64[ndarray, " pairs"], second: Int64[ndarray, " pairs"]
) -> tuple[Float64[ndarray, " pairs"], Int64[ndarray, " pairs"]]:
    """Return r and the joint firings of given pairs of latents; r is 0 where one of the two never varies.

    Args:
        a, b: codes over the same stream.
        first, second: latents of a and of b.

    Raises:
        MismatchError: the codes are over different streams.
    """
    a.check_same_tokens(b)
    products = np.zeros((1, len(first)))
    kernel.pair_sums(
        first.astype(np.int64), second.astype(np.int64), a.starts, a.tokens, a.values_by_latent,
        b.starts, b.tokens, b.values_by_latent, np.zeros(a.n_tokens, np.int32), products,
    )  # fmt: skip
    spread = products[0] - a.sums[first] * b.sums[second] / a.n_tokens
    r = spread * a.inverse_norms[first] * b.inverse_norms[second]
    return np.clip(r, -1.0, 1.0), _joint(a, b, identity(a.n_tokens), first, second)


def identity(n_tokens: int) -> Int32[ndarray, " tokens"]:
    """Return the arrangement in which every token stands beside itself."""
    return np.arange(n_tokens, dtype=np.int32)


_Pair = tuple[Int32[ndarray, "latents top"], Float64[ndarray, "latents top"]]


def _top(
    a: Codes, b: Codes, rows: ndarray, b_row: ndarray, top: int, threshold: float
) -> tuple[_Pair, _Pair, ndarray, ndarray, ndarray]:
    dense = dense_is_faster(a, b)
    room = _ROOM if threshold <= 1 else 1
    while True:
        lists = _Lists.empty(1 if dense else numba.get_num_threads(), len(rows), b.d_sae, top, room)
        (_by_blocks if dense else _by_rows)(a, b, rows, b_row, threshold, lists)
        if lists.n_pairs.max() <= room:
            break
        room = int(lists.n_pairs.max())
    kernel.merge_columns(lists.column_latent, lists.column_r)
    kept = [slice(0, n) for n in lists.n_pairs]
    pair = np.concatenate([p[s] for p, s in zip(lists.pairs, kept, strict=True)])
    score = np.concatenate([p[s] for p, s in zip(lists.pair_r, kept, strict=True)])
    order = np.lexsort((pair[:, 1], pair[:, 0]))
    return (
        (lists.row_latent, lists.row_r), (lists.column_latent[0], lists.column_r[0]),
        pair[order, 0], pair[order, 1], score[order],
    )  # fmt: skip


def dense_is_faster(a: Codes, b: Codes) -> bool:
    """Say whether dense products of blocks of codes take less time than sparse ones, as benchmarks found.

    Sparse ones cost a token l0_a · l0_b sums, dense ones d_a · d_b, each about 80 times cheaper. Small codes stay
    sparse: there is nothing to gain, and sparse sums are exact to the last digits of float64.
    """
    sums = a.l0 * b.l0
    return sums > _DENSE * a.d_sae * b.d_sae and sums * a.n_tokens > _MANY


_DENSE = 0.11**2
"""Dense products win where more than 11 % of the latents fire on both sides (`benchmarks/correlation.py density`)."""
_MANY = 2e9
"""Sums that take two seconds or more."""


class _Lists(Struct):
    """What the kernels write: see `kernels.correlate.top_matches`."""

    row_latent: Int32[ndarray, "rows top"]
    row_r: Float64[ndarray, "rows top"]
    column_latent: Int32[ndarray, "parts latents top"]
    column_r: Float64[ndarray, "parts latents top"]
    pairs: Int32[ndarray, "parts room 2"]
    pair_r: Float64[ndarray, "parts room"]
    n_pairs: Int64[ndarray, " parts"]

    @classmethod
    def empty(cls, parts: int, rows: int, columns: int, top: int, room: int) -> "_Lists":
        return cls(
            np.full((rows, top), -1, np.int32), np.zeros((rows, top)),
            np.full((parts, columns, top), -1, np.int32), np.zeros((parts, columns, top)),
            np.empty((parts, room, 2), np.int32), np.empty((parts, room)), np.zeros(parts, np.int64),
        )  # fmt: skip


def _by_rows(a: Codes, b: Codes, rows: ndarray, b_row: ndarray, threshold: float, lists: _Lists) -> None:
    """Sparse products, one latent of a after the other."""
    kernel.top_matches(
        rows, len(lists.n_pairs),
        a.starts, a.tokens, a.values_by_latent, a.sums, a.inverse_norms,
        b_row, b.indptr, b.latents, b.values, b.sums / b.n_tokens, b.inverse_norms,
        lists.row_latent, lists.row_r, lists.column_latent, lists.column_r, threshold,
        lists.pairs, lists.pair_r, lists.n_pairs,
    )  # fmt: skip


_BLOCK_LATENTS, _BLOCK_TOKENS = 512, 2048


def _by_blocks(a: Codes, b: Codes, rows: ndarray, b_row: ndarray, threshold: float, lists: _Lists) -> None:
    """Dense float32 products of some latents of a with all of b, some tokens at a time; float64 sums."""
    every = np.arange(b.d_sae, dtype=np.int32)
    for first in range(0, len(rows), _BLOCK_LATENTS):
        some = rows[first : first + _BLOCK_LATENTS]
        column = np.full(a.d_sae, -1, np.int32)
        column[some] = np.arange(len(some))
        products = np.zeros((len(some), b.d_sae))
        for start in range(0, a.n_tokens, _BLOCK_TOKENS):
            token = np.arange(start, min(start + _BLOCK_TOKENS, a.n_tokens), dtype=np.int32)
            left = np.empty((len(token), len(some)), np.float32)
            right = np.empty((len(token), b.d_sae), np.float32)
            kernel.spread(a.indptr, a.latents, a.values, token, column, left)
            kernel.spread(b.indptr, b.latents, b.values, b_row[token], every, right)
            products += by_rows(torch.from_numpy(left).T, torch.from_numpy(right).T).numpy()
        lists.n_pairs[0] = kernel.take_rows(
            rows, products, first, a.sums, a.inverse_norms, b.sums / b.n_tokens, b.inverse_norms,
            lists.row_latent, lists.row_r, lists.column_latent[0], lists.column_r[0], threshold,
            lists.pairs[0], lists.pair_r[0], int(lists.n_pairs[0]),
        )  # fmt: skip


def _counted(a: Codes, b: Codes, own: ndarray, best: _Pair, count_from: float) -> Candidates:
    latent, r = best
    worth = r >= count_from
    worth[:, 0] = True
    joint = _joint(a, b, identity(a.n_tokens), own, np.where(worth, latent, -1).ravel()).reshape(r.shape)
    return Candidates(latent, r, np.where(worth, joint, -1))


def _joint(a: Codes, b: Codes, b_row: ndarray, first: ndarray, second: ndarray) -> Int64[ndarray, " pairs"]:
    out = np.zeros(len(first), np.int64)
    kernel.joint_firings(
        first.astype(np.int64), second.astype(np.int64), a.n_tokens,
        a.starts, a.tokens, b_row, b.starts, b.tokens, out,
    )  # fmt: skip
    return out
