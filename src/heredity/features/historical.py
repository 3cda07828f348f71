"""The historical rule: how the paper's released code matches features. Here to be compared with, not to be used.

Source: Horn & Elliott 2024 (arXiv 2410.12391), released code, `evaluation/autoencoder/correlation.py`. Of each
model's firings a random sample is drawn, on its own. A latent becomes its mean activation on each token
*string*, over the sampled firings; strings on which it has none are missing, not 0. Two latents match when
Pearson's r over the strings that both have is at least 0.80, from two strings in common on.

Two points always lie on a line, so with two strings in common r is 1 or −1: half of such pairs match whatever
they are. A latent counts as persisting when any of all latents of the other model matches it. `historical_table`
says what the rule counts on the same codes as ours, and what it counts once the child's codes are shifted so
that nothing can be shared token by token.
"""

from typing import Any

import numba
import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64
from msgspec import Struct
from numpy import ndarray

from heredity.corpora.tokens import TokenStream
from heredity.features.codes import Codes
from heredity.features.lineage import Lineage
from heredity.features.nulls import rearranged, shifted
from heredity.seeds import generator

TAU = 0.8
LEAST_STRINGS = 2
SAMPLE = 0.5


class StringMeans(Struct, frozen=True, eq=False):
    """Mean activation of each latent on each token string where it fires: CSR by latent.

    Attributes:
        starts: [latents + 1].
        string: of each entry.
        mean: of each entry.
        n_strings: how many strings there are.
    """

    starts: Int64[ndarray, " latents_1"]
    string: Int64[ndarray, " entries"]
    mean: Float64[ndarray, " entries"]
    n_strings: int


class Counted(Struct, frozen=True, kw_only=True, eq=False):
    """What the rule finds between two SAEs.

    Attributes:
        pairs: pairs of latents with at least two strings in common.
        passed: those with r ≥ 0.80.
        passed_by_strings: of the passed, how many have 2, 3, …, 9, and 10 or more strings in common.
        matched: which of the latents tried match any of the other side.
        tried: latents tried that have a firing in the sample.
    """

    pairs: int
    passed: int
    passed_by_strings: Int64[ndarray, " 9"]
    matched: Bool[ndarray, " rows"]
    tried: int


def string_means(
    codes: Codes,
    strings: Int64[ndarray, " tokens"],
    *,
    share: float,
    draw: np.random.Generator,
) -> StringMeans:
    """Average a sample of an SAE's firings over token strings.

    Args:
        codes: of one SAE.
        strings: the string at each token of the stream, as a number.
        share: of the firings that is drawn, without replacement.
        draw: of this SAE alone.
    """
    taken = draw.random(len(codes.tokens)) < share
    n_strings = int(strings.max()) + 1
    starts = np.zeros(codes.d_sae + 1, np.int64)
    string, mean = np.empty(int(taken.sum()), np.int64), np.empty(int(taken.sum()))
    n = _average(
        codes.starts, strings[codes.tokens], codes.values_by_latent, taken, n_strings, starts, string, mean
    )  # fmt: skip
    return StringMeans(starts, string[:n].copy(), mean[:n].copy(), n_strings)


def count(
    a: StringMeans,
    b: StringMeans,
    rows: Int64[ndarray, " rows"],
    *,
    tau: float = TAU,
    least: int = LEAST_STRINGS,
) -> Counted:
    """Apply the rule to some latents of a with every latent of b."""
    order = np.argsort(b.string, kind="stable")
    by_string = np.searchsorted(b.string[order], np.arange(a.n_strings + 1))
    width = len(b.starts) - 1
    latent = np.repeat(np.arange(width), np.diff(b.starts))[order]
    matched, by_size = np.zeros(len(rows), bool), np.zeros(9, np.int64)
    pairs = _count(
        rows, a.starts, a.string, a.mean, by_string, latent, b.mean[order], width, tau, least, matched, by_size
    )  # fmt: skip
    return Counted(
        pairs=int(pairs), passed=int(by_size.sum()), passed_by_strings=by_size, matched=matched,
        tried=int((np.diff(a.starts)[rows] > 0).sum()),
    )  # fmt: skip


def historical_table(
    lineage: Lineage, stream: TokenStream, string_of: Int64[ndarray, " vocabulary"] | None = None
) -> pl.DataFrame:
    """Count every edge by the historical rule, as it is and with the child shifted, beside our own share.

    Args:
        lineage: of each member the first seed is taken.
        stream: the shared tokens.
        string_of: number of each token's string; without it every token is a string of its own.

    Returns:
        two rows per edge, `codes` being observed or shifted within domains; `ours` is the share that persists by
        the lineage's own rule between the same two SAEs, or its floor.
    """
    tokens = np.asarray(stream.tokens).astype(np.int64)
    strings = tokens if string_of is None else string_of[tokens]
    table = []
    for parent, child in lineage.edges:
        a, b = lineage.members[parent][0], lineage.members[child][0]
        draw = generator(lineage.seed, "historical shift", parent, child)
        beside = shifted(lineage.documents, b.meta.context, draw)
        rows = np.flatnonzero(a.firings > 0)
        moved = rearranged(b, np.arange(b.d_sae), beside)
        at, result = lineage.settings.at, lineage.result(parent, child)
        ours = {
            "observed": float(lineage.comparison(parent, 0, child, 0).parent.curve[at]),
            "shifted": float(result.floor.mean[at]),
        }
        left = string_means(
            a, strings, share=SAMPLE, draw=generator(lineage.seed, "historical", parent, child, 0)
        )
        for codes, other in (("observed", b), ("shifted", moved)):
            own = generator(lineage.seed, "historical", parent, child, codes)
            found = count(left, string_means(other, strings, share=SAMPLE, draw=own), rows)
            table.append(_row(parent, child, codes, found) | {"ours": ours[codes]})
    return pl.DataFrame(table, schema=_SCHEMA)


_SCHEMA = {
    "parent": pl.String, "child": pl.String, "codes": pl.String, "tau": pl.Float64, "persist": pl.Float64,
    "tried": pl.Int64, "pairs": pl.Int64, "passed": pl.Int64, "passed_share": pl.Float64,
    "passed_of_two": pl.Float64, "passed_below_ten": pl.Float64, "matches_per_latent": pl.Float64,
    "ours": pl.Float64,
}  # fmt: skip


def _row(parent: str, child: str, codes: str, found: Counted) -> dict[str, Any]:
    passed = max(1, found.passed)
    return {
        "parent": parent, "child": child, "codes": codes, "tau": TAU,
        "persist": float(found.matched.sum()) / max(1, found.tried), "tried": found.tried,
        "pairs": found.pairs, "passed": found.passed, "passed_share": found.passed / max(1, found.pairs),
        "passed_of_two": float(found.passed_by_strings[0]) / passed,
        "passed_below_ten": float(found.passed_by_strings[:8].sum()) / passed,
        "matches_per_latent": found.passed / max(1, found.tried),
    }  # fmt: skip


@numba.njit(cache=True)
def _average(
    of_latent: ndarray, at_string: ndarray, values: ndarray, taken: ndarray, n_strings: int, starts: ndarray,
    string: ndarray, mean: ndarray,
) -> int:  # fmt: skip
    """Write every latent's mean on each string that it fires on; return the number of entries."""
    total, count = np.zeros(n_strings), np.zeros(n_strings, np.int64)
    n = 0
    for i in range(of_latent.shape[0] - 1):
        first = n
        for e in range(of_latent[i], of_latent[i + 1]):
            if taken[e]:
                where = at_string[e]
                if count[where] == 0:
                    string[n] = where
                    n += 1
                total[where] += values[e]
                count[where] += 1
        for e in range(first, n):
            where = string[e]
            mean[e] = total[where] / count[where]
            total[where] = 0
            count[where] = 0
        starts[i + 1] = n
    return n


@numba.njit(cache=True)
def _count(
    rows: ndarray, starts: ndarray, string: ndarray, mean: ndarray, by_string: ndarray, latent: ndarray,
    other: ndarray, width: int, tau: float, least: int, matched: ndarray, by_size: ndarray,
) -> int:  # fmt: skip
    """Mark the rows that match; count passed pairs by strings in common; return the pairs tested."""
    n, sums = np.zeros(width, np.int64), np.zeros((width, 5))
    touched = np.empty(width, np.int64)
    pairs = 0
    for at in range(rows.shape[0]):
        i = rows[at]
        n_touched = 0
        for e in range(starts[i], starts[i + 1]):
            x, where = mean[e], string[e]
            for f in range(by_string[where], by_string[where + 1]):
                j, y = latent[f], other[f]
                if n[j] == 0:
                    touched[n_touched] = j
                    n_touched += 1
                n[j] += 1
                row = sums[j]
                row[0] += x
                row[1] += y
                row[2] += x * x
                row[3] += y * y
                row[4] += x * y
        for t in range(n_touched):
            j = touched[t]
            if n[j] >= least:
                pairs += 1
                row, size = sums[j], n[j]
                spread_a, spread_b = row[2] - row[0] ** 2 / size, row[3] - row[1] ** 2 / size
                # Equal means have no correlation (the released code gets NaN, which never passes).
                if spread_a > 1e-12 * row[2] and spread_b > 1e-12 * row[3]:
                    r = (row[4] - row[0] * row[1] / size) / np.sqrt(spread_a * spread_b)
                    if r >= tau:
                        matched[at] = True
                        by_size[min(size, 10) - 2] += 1
            n[j] = 0
            sums[j] = 0
    return pairs
