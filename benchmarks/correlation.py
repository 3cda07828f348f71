"""Correlation of all pairs of latents: tokens per CPU second, memory beside the codes, agreement with float64.

    python benchmarks/correlation.py [uniform zipf] [--tokens 300000] [--latents 16384] [--l0 32] [--rounds 3]
    python benchmarks/correlation.py density [--tokens 6144] [--latents 4096] [--shares 0.06 0.08 0.1]

Two synthetic codes over the same tokens, one thread. `uniform`: every latent fires equally often. `zipf`: as in
trained dictionaries, rates fall with the rank, from more than a tenth of the tokens to a few in 100,000. Half
of b's latents are noisy copies of a's, in another order; the others are its own. Codes lie in memory; what is
counted is CPU seconds of `correlate` (best 8 of every latent of both sides, all pairs with r ≥ 0.4, joint
firings), and resident memory at most beyond that with the codes held.

16 latents of a are compared with all of b by float64 products of dense codes: the largest difference of any r.

`density` times sparse and dense products at several L0 on both sides, to find where the dense ones win.
"""

import argparse
import os
import time
from statistics import median

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before numpy and torch are imported

import numpy as np  # noqa: E402
from sae_peer import forget_peak, resident  # noqa: E402

from heredity.features import correlate as correlation  # noqa: E402
from heredity.features.codes import Codes, CodesMeta  # noqa: E402
from heredity.features.correlate import correlate  # noqa: E402
from heredity.features.sae import Sparse  # noqa: E402
from heredity.seeds import generator  # noqa: E402

CHECKED = 16


def rates(kind: str, latents: int, l0: float) -> np.ndarray:
    """Return firing rates that add up to l0."""
    if kind == "uniform":
        return np.full(latents, l0 / latents)
    found = 1 / (np.arange(latents) + latents / 400)
    for _ in range(20):  # none above a quarter of the tokens
        found = np.minimum(found * l0 / found.sum(), 0.25)
    return found


def fired(rate: np.ndarray, n_tokens: int, draw: np.random.Generator) -> list[np.ndarray]:
    """Return the tokens on which each latent fires, ascending, independently of the others."""
    counts = draw.binomial(n_tokens, rate)
    return [np.unique(draw.integers(0, n_tokens, count)) for count in counts]


def codes(tokens: list[np.ndarray], values: list[np.ndarray], n_tokens: int, name: str) -> Codes:
    """Return codes from the firings of each latent."""
    latent = np.repeat(np.arange(len(tokens), dtype=np.int32), [len(t) for t in tokens])
    token, value = np.concatenate(tokens), np.concatenate(values)
    order = np.argsort(token, kind="stable")
    indptr = np.zeros(n_tokens + 1, np.int64)
    np.cumsum(np.bincount(token, minlength=n_tokens), out=indptr[1:])
    meta = CodesMeta(
        member=name, seed=0, site="", stream_digest="", context=1, n_tokens=n_tokens, d_sae=len(tokens)
    )
    return Codes.of(meta, Sparse(indptr, latent[order], value[order].astype(np.float32)))


def pair(kind: str, n_tokens: int, latents: int, l0: float) -> tuple[Codes, Codes]:
    """Return two codes whose latents are partly the same."""
    draw = generator(0, "correlation benchmark", kind, n_tokens, latents, str(l0))
    rate = draw.permutation(rates(kind, latents, l0))
    a = fired(rate, n_tokens, draw)
    a_values = [draw.standard_exponential(len(t), np.float32) + np.float32(0.1) for t in a]
    own = fired(rate, n_tokens, draw)
    b, b_values = [], []
    for j, source in enumerate(draw.permutation(latents)):
        if j % 2:
            keep = draw.random(len(a[source])) < 0.9
            b.append(a[source][keep])
            b_values.append(a_values[source][keep] * draw.uniform(0.7, 1.3, keep.sum()).astype(np.float32))
        else:
            b.append(own[source])
            b_values.append(draw.standard_exponential(len(own[source]), np.float32) + np.float32(0.1))
    return codes(a, a_values, n_tokens, "a"), codes(b, b_values, n_tokens, "b")


def dense(side: Codes, latents: np.ndarray) -> np.ndarray:
    """Return some latents' codes with their zeros, float64 [n_tokens, latents]."""
    out = np.zeros((side.n_tokens, len(latents)))
    for column, latent in enumerate(latents):
        token, value = side.of_latent(int(latent))
        out[token, column] = value
    return out


def exact(a: Codes, b: Codes, rows: np.ndarray) -> np.ndarray:
    """Return r of some latents of a with all of b, from dense codes in float64."""
    left = dense(a, rows)
    left -= left.mean(axis=0)
    found = np.zeros((len(rows), b.d_sae))
    for start in range(0, b.d_sae, 256):
        names = np.arange(start, min(start + 256, b.d_sae))
        right = dense(b, names)
        right -= right.mean(axis=0)
        norm = np.sqrt(np.square(left).sum(axis=0))[:, None] * np.sqrt(np.square(right).sum(axis=0))
        found[:, names] = np.where(norm > 0, left.T @ right / np.where(norm > 0, norm, 1), 0)
    return found


def largest_difference(a: Codes, b: Codes) -> float:
    """Return how far r is from float64's in the lists of some latents and in all pairs listed for them."""
    rows = np.argsort(-a.firings, kind="stable")[:: max(1, a.d_sae // CHECKED)][:CHECKED]
    rows = np.sort(rows[a.firings[rows] > 0])
    want, got = exact(a, b, rows), correlate(a, b)
    best = np.maximum(-np.sort(-want, axis=1)[:, : got.forward.r.shape[1]], 0)
    worst = float(np.abs(got.forward.r[rows] - best).max())
    for row, latent in enumerate(rows):
        here = got.first == latent
        worst = max(worst, float(np.abs(got.r[here] - want[row, got.second[here]]).max(initial=0)))
        assert here.sum() == (want[row] >= 0.4).sum()
    return worst


def measure(kind: str, n_tokens: int, latents: int, l0: float, rounds: int) -> None:
    """Print speed, memory and agreement."""
    a, b = pair(kind, n_tokens, latents, l0)
    held = sum(array.nbytes for side in (a, b) for array in side._arrays()) / 2**20
    correlate(*pair("uniform", 1000, 64, 4))  # kernels are compiled, or read from the cache
    for side in (a, b):
        _ = side.sums, side.inverse_norms
    seconds = []
    forget_peak()
    before = resident("VmRSS")
    for _ in range(rounds):
        began = time.process_time()
        found = correlate(a, b)
        seconds.append(time.process_time() - began)
    extra = resident("VmHWM") - before
    rates = f"rates {a.firings.max() / n_tokens:.2g} … {a.firings.min() / n_tokens:.2g}"
    print(f"{kind}: {n_tokens:,} tokens, {latents:,} × {latents:,}, L0 {a.l0:.1f} and {b.l0:.1f}, {rates}")
    print(f"  {len(found.r):,} pairs listed")
    print(f"  {median(seconds):.2f} CPU s ({min(seconds):.2f} … {max(seconds):.2f}): "
          f"{n_tokens / median(seconds):,.0f} tokens per CPU second")  # fmt: skip
    print(f"  {extra:,.0f} MiB beside {held:,.0f} MiB of codes")
    print(f"  largest difference from float64: {largest_difference(a, b):.1e}", flush=True)


def density(n_tokens: int, latents: int, shares: list[float]) -> None:
    """Print the CPU seconds of sparse and of dense products at several densities."""
    rows, beside = np.arange(latents), correlation.identity(n_tokens)
    for share in shares:
        a, b = pair("uniform", n_tokens, latents, share * latents)
        seconds: dict[str, list[float]] = {"_by_rows": [], "_by_blocks": []}
        for side in (a, b):
            _ = side.sums, side.inverse_norms
        for _ in range(3):
            for way, taken in seconds.items():
                lists = correlation._Lists.empty(1, latents, latents, 8, 1 << 16)
                began = time.process_time()
                getattr(correlation, way)(a, b, rows, beside, 0.4, lists)
                taken.append(time.process_time() - began)
        sparse, dense = (median(taken[1:]) for taken in seconds.values())
        share = (a.l0 * b.l0) ** 0.5 / latents
        print(f"{share:.1%} of the latents fire (L0 {share * latents:.0f} of {latents:,}): sparse {sparse:.2f} CPU s, "
              f"dense {dense:.2f}; as many of 16,384: L0 {share * 16384:.0f}", flush=True)  # fmt: skip


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["uniform", "zipf"])
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--l0", type=float, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.02, 0.04, 0.06, 0.08, 0.1, 0.15])
    options = parser.parse_args()
    for kind in options.what:
        if kind == "density":
            density(options.tokens, options.latents, options.shares)
            continue
        measure(kind, options.tokens, options.latents, options.l0, options.rounds)


if __name__ == "__main__":
    main()
