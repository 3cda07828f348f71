"""Kernels over the firings of every latent: what tokens, and what kinds of token, they fall on.

Firings are feature-major, as `features.codes.Codes` has them: those of latent j are `starts[j] … starts[j + 1]`.
"""

import numpy as np
from numba import njit, prange
from numpy import ndarray

_CHUNKS = 64  # accumulators of one vocabulary each are made this often


@njit(cache=True, parallel=True)
def count_by(starts: ndarray, tokens: ndarray, kind: ndarray, counts: ndarray) -> None:
    """Count each latent's firings by the kind of their token.

    Args:
        starts, tokens: the firings.
        kind: of every token of the stream, below `counts.shape[1]`.
        counts: out, int64 [latents, kinds], zeros.
    """
    for j in prange(counts.shape[0]):
        row = counts[j]
        for n in range(starts[j], starts[j + 1]):
            row[kind[tokens[n]]] += 1


@njit(cache=True, parallel=True)
def sum_by(starts: ndarray, tokens: ndarray, quantity: ndarray, sums: ndarray) -> None:
    """Sum a quantity of the tokens, float64 [tokens], over each latent's firings into `sums [latents]`."""
    for j in prange(sums.shape[0]):
        total = 0.0
        for n in range(starts[j], starts[j + 1]):
            total += quantity[tokens[n]]
        sums[j] = total


@njit(cache=True)
def _insert(best: ndarray, score: ndarray, token: int, value: float) -> None:
    """Keep the best tokens in falling order of their score; of equals the lower number comes first."""
    last = best.shape[0] - 1
    if not (value > score[last] or (value == score[last] and (best[last] < 0 or token < best[last]))):
        return
    at = last
    while at > 0 and (value > score[at - 1] or (value == score[at - 1] and token < best[at - 1])):
        best[at], score[at] = best[at - 1], score[at - 1]
        at -= 1
    best[at], score[at] = token, value


@njit(cache=True)
def _at_least(firings: int, occurrences: int) -> float:
    """Return the lower end of Wilson's 95 % interval of a rate, so that 1 of 1 does not outrank 90 of 100."""
    z2, n = 1.96 * 1.96, float(occurrences)
    p = firings / n
    return (p + z2 / (2 * n) - np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n)))) / (1 + z2 / n)


@njit(cache=True, parallel=True)
def token_tables(
    starts: ndarray, tokens: ndarray, values: ndarray, identifiers: ndarray, occurrences: ndarray,
    by_mass: ndarray, mass: ndarray, by_rate: ndarray, firings: ndarray, entropy: ndarray, distinct: ndarray,
) -> None:  # fmt: skip
    """Find the tokens that carry most of a latent's activation, and those on which it fires most surely.

    Args:
        starts, tokens, values: the firings.
        identifiers: vocabulary entry of every token of the stream.
        occurrences: how often each vocabulary entry stands in the stream, int64 [vocabulary].
        by_mass: out, int64 [latents, n], −1: entries by falling Σ activation.
        mass: out, float64 [latents, n], 0: their Σ activation.
        by_rate: out, int64 [latents, n], −1: entries by the falling lower bound of P(fires | entry).
        firings: out, int64 [latents, n], 0: the latent's firings on them.
        entropy: out, float64 [latents], nats: of the activation's spread over entries.
        distinct: out, int64 [latents]: entries on which it fires at all.
    """
    n_latents, n_top = by_mass.shape
    for chunk in prange(_CHUNKS):
        total = np.zeros(occurrences.shape[0], np.float64)
        count = np.zeros(occurrences.shape[0], np.int64)
        touched = np.empty(occurrences.shape[0], np.int64)
        sure = np.empty(n_top, np.float64)
        for j in range(chunk * n_latents // _CHUNKS, (chunk + 1) * n_latents // _CHUNKS):
            n_touched, whole = 0, 0.0
            for n in range(starts[j], starts[j + 1]):
                name = identifiers[tokens[n]]
                if count[name] == 0:
                    touched[n_touched] = name
                    n_touched += 1
                count[name] += 1
                total[name] += values[n]
                whole += values[n]
            sure[:] = -1.0
            mass[j, :] = -1.0
            spread = 0.0
            for at in range(n_touched):
                name = touched[at]
                _insert(by_mass[j], mass[j], name, total[name])
                _insert(by_rate[j], sure, name, _at_least(count[name], occurrences[name]))
                share = total[name] / whole
                spread -= share * np.log(share)
            entropy[j], distinct[j] = spread, n_touched
            for at in range(n_top):
                if by_mass[j, at] < 0:
                    mass[j, at] = 0.0
                if by_rate[j, at] >= 0:
                    firings[j, at] = count[by_rate[j, at]]
            for at in range(n_touched):
                count[touched[at]] = 0
                total[touched[at]] = 0.0
