"""What became of each latent where a child's SAE began at its parent's: the two latents of one index side by side.

Along such an edge the index is an identity. An eligible latent of the parent is **kept in place** when the child's
latent of the same index has r ≥ τ with it on at least `min_joint` joint firings. Two things are set beside it:

- **strangers** (the null): the same asked of the child's latent of another index, drawn among the `NEAR` next ones
  either way by how often they fire in the parent, so that firing equally often is in the null;
- **trained on** (the control): the parent's own SAE, trained again on the parent's own activations for as long as
  the child's was. What moves there moves by training alone, and no child can be expected to keep more.

r and decoder cosines near 1 are no evidence of inheritance by themselves: the two SAEs had one start.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64
from msgspec import Struct
from numpy import ndarray

from heredity.features.codes import Codes
from heredity.features.correlate import correlate, paired
from heredity.features.lineage import Edge, Lineage
from heredity.features.resample import Resampler
from heredity.features.tables import Decoders, cosines
from heredity.features.verdicts import Tracking, eligible
from heredity.seeds import generator

NEAR = 16
"""Strangers are drawn among so many latents that fire next more often, and as many that fire next less often."""

_SHARES = ("kept", "r_median", "cosine_median", "best_at_index")
_EDGE = {
    "parent": pl.String, "child": pl.String, "seed": pl.Int64, "through": pl.String, "direct": pl.Boolean,
    "tau": pl.Float64,
    "n_parent": pl.Int64, "silent": pl.Float64,
    **{f"{name}{end}": pl.Float64 for name in _SHARES for end in ("", "_null", "_null_p95", "_control")},
    "kept_low": pl.Float64, "kept_high": pl.Float64, "n_draws": pl.Int64,
}  # fmt: skip
_LATENT = {
    "parent": pl.String, "child": pl.String, "seed": pl.Int64, "latent": pl.Int64, "firings_parent": pl.Int64,
    "firings_child": pl.Int64, "joint_firings": pl.Int64, "r": pl.Float64, "decoder_cosine": pl.Float64,
    "best_latent": pl.Int64, "best_r": pl.Float64, "kept": pl.Boolean,
}  # fmt: skip


class Places(Struct, frozen=True, eq=False):
    """One SAE's eligible latents, and those of given indices in another that began at it.

    Attributes:
        latent: indices in the first SAE.
        other: index in the second that each is compared with.
        r, joint, cosine: of each pair; the cosine is of the decoder rows, NaN where they have no common basis.
        best: index of the best match in the second, −1 without one.
        tau, min_joint: of a match.
    """

    latent: Int64[ndarray, " n"]
    other: Int64[ndarray, " n"]
    r: Float64[ndarray, " n"]
    joint: Int64[ndarray, " n"]
    cosine: Float64[ndarray, " n"]
    best: Int64[ndarray, " n"]
    tau: float
    min_joint: int

    @property
    def kept(self) -> Bool[ndarray, " n"]:
        """Which are kept at the index that they are compared with."""
        return (self.r >= self.tau) & (self.joint >= self.min_joint)

    def shares(self) -> dict[str, float | None]:
        """Return share kept, median r and cosine, and the share whose best match is at the index."""
        there = self.cosine[~np.isnan(self.cosine)]
        return {
            "kept": _mean(self.kept),
            "r_median": _median(self.r),
            "cosine_median": _median(there),
            "best_at_index": _mean(self.best == self.other),
        }


def identity_tables(
    lineage: Lineage,
    decoders: Decoders,
    begun: Mapping[str, str],
    trained_on: Mapping[str, Sequence[Codes]],
    trained_on_decoders: Decoders,
) -> dict[str, pl.DataFrame]:
    """Measure every edge whose two SAEs of one seed go back to one start.

    Args:
        lineage: the comparisons; those of equal seeds are used.
        decoders: W_dec of each member and seed.
        begun: for each child, the member at whose SAE its own began.
        trained_on: codes of members' SAEs that were trained on with their own activations, by seed.
        trained_on_decoders: their W_dec.

    Returns:
        `identity`: one row per edge and seed. Columns of each measure: as it is, `_null` and `_null_p95` (mean and
        95th percentile over the draws of strangers), `_control` (the parent's SAE trained on; only of `direct`
        edges, where the child's began at the parent's). `through`: where both starts meet. `silent`: share whose
        latent in the child never fires.
        `identity_latents`: one row per eligible latent of the parent.
    """
    rows: list[dict[str, Any]] = []
    latents = [pl.DataFrame(schema=_LATENT)]
    for (parent, child), meet in meetings(lineage.edges, begun).items():
        direct = begun.get(child) == parent
        for seed, (a, b) in enumerate(zip(lineage.members[parent], lineage.members[child], strict=True)):
            side = lineage.comparison(parent, seed, child, seed).parent
            best = side.candidates.latent[:, 0].astype(np.int64)
            weights = decoders[parent][seed], decoders[child][seed]
            seen = places(a, b, weights, best, lineage.settings)
            draw = generator(lineage.seed, "identity strangers", parent, child, seed)
            rows.append(
                {
                    "parent": parent, "child": child, "seed": seed, "through": meet, "direct": direct,
                    "tau": lineage.settings.tau, "n_parent": len(seen.latent),
                    "silent": _mean(b.firings[seen.latent] == 0),
                    **seen.shares(), **_interval(lineage.resampler, a, b, seen),
                    **_null(seen, a, b, weights, draw, lineage.settings.shifts),
                    **(
                        _control(a, trained_on[parent][seed], weights[0], trained_on_decoders[parent][seed], lineage)
                        if direct
                        else {}
                    ),
                }
            )  # fmt: skip
            latents.append(_latents(parent, child, seed, seen, (a, b), side.best_r))
    return {"identity": pl.DataFrame(rows, schema=_EDGE), "identity_latents": pl.concat(latents)}


def meetings(edges: Sequence[Edge], begun: Mapping[str, str]) -> dict[Edge, str]:
    """Return where the starts of each edge's two SAEs meet: at the parent, or at an ancestor of both.

    Args:
        edges: (parent, child).
        begun: the member at whose SAE each one's begins; edges whose ends have none in common are left out.
    """

    def line(member: str) -> list[str]:
        return [member, *line(begun[member])] if member in begun else [member]

    found: dict[Edge, str] = {}
    for parent, child in edges:
        shared = [name for name in line(child) if name in line(parent)]
        if shared:
            found[parent, child] = shared[0]
    return found


def places(
    a: Codes, b: Codes, weights: tuple[ndarray, ndarray], best: Int64[ndarray, " latents"], settings: Tracking
) -> Places:
    """Compare each eligible latent of a with the latent of b of the same index.

    Args:
        a, b: codes over one stream, of dictionaries of one size.
        weights: W_dec of both.
        best: index in b of every latent's best match, −1 without one.
        settings: τ, and the firings that count.
    """
    own = np.flatnonzero(eligible(a, settings))
    r, joint = paired(a, b, own, own)
    cosine = cosines(*weights, own, own)
    return Places(own, own, r, joint, cosine, best[own], settings.tau, settings.min_joint)


def strangers(
    firings: Int64[ndarray, " n"], draw: np.random.Generator, near: int = NEAR
) -> Int64[ndarray, " n"]:
    """Draw for each of some latents another one (by its place) that fires about as often; never itself.

    Args:
        firings: of each latent, in any order; at least two.
        draw: keyed.
        near: how many ranks off at most.
    """
    n = len(firings)
    order = np.lexsort((np.arange(n), firings))
    width = min(2 * near + 1, n)
    rank = np.arange(n)
    low = np.clip(rank - near, 0, n - width)
    picked = low + draw.integers(0, width - 1, n)
    picked += picked >= rank  # the place of the latent itself is skipped
    out = np.empty(n, np.int64)
    out[order] = order[picked]
    return out


def _null(
    seen: Places, a: Codes, b: Codes, weights: tuple[ndarray, ndarray], draw: np.random.Generator, draws: int
) -> dict[str, Any]:
    """Ask the same of strangers, as often as floors are shifted."""
    if len(seen.latent) < 2:
        return {"n_draws": 0}
    firings = a.firings[seen.latent]
    found = []
    for _ in range(draws):
        other = seen.latent[strangers(firings, draw)]
        r, joint = paired(a, b, seen.latent, other)
        cosine = cosines(*weights, seen.latent, other)
        one = Places(seen.latent, other, r, joint, cosine, seen.best, seen.tau, seen.min_joint)
        found.append(one.shares())
    values: dict[str, Any] = {"n_draws": draws}
    for name in _SHARES:
        of = [share for one in found if (share := one[name]) is not None]
        if of:
            values[f"{name}_null"] = float(np.mean(of))
            values[f"{name}_null_p95"] = float(np.percentile(of, 95))
    return values


def _control(a: Codes, on: Codes, weight: ndarray, on_weight: ndarray, lineage: Lineage) -> dict[str, Any]:
    best = correlate(a, on, top=1, threshold=1.0, count_from=1.0).forward.latent[:, 0].astype(np.int64)
    seen = places(a, on, (weight, on_weight), best, lineage.settings)
    return {f"{name}_control": value for name, value in seen.shares().items()}


def _interval(resampler: Resampler, a: Codes, b: Codes, seen: Places) -> dict[str, Any]:
    """Draw documents anew: every r is that of the resample, joint firings are those of the stream."""
    if not len(seen.latent):
        return {}
    r = resampler.pairs(a, b, seen.latent, seen.other)
    shares = ((r >= seen.tau) & (seen.joint >= seen.min_joint)).mean(axis=1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return {"kept_low": float(low), "kept_high": float(high)}


def _latents(
    parent: str, child: str, seed: int, seen: Places, codes: tuple[Codes, Codes], best_r: ndarray
) -> pl.DataFrame:
    n = len(seen.latent)
    table = pl.DataFrame(
        {
            "parent": [parent] * n, "child": [child] * n, "seed": [seed] * n, "latent": seen.latent,
            "firings_parent": codes[0].firings[seen.latent], "firings_child": codes[1].firings[seen.other],
            "joint_firings": seen.joint, "r": seen.r, "decoder_cosine": seen.cosine, "best_latent": seen.best,
            "best_r": best_r[seen.latent], "kept": seen.kept,
        },
        schema=_LATENT,
    )  # fmt: skip
    return table.with_columns(
        pl.col("decoder_cosine").fill_nan(None), pl.when(pl.col("best_latent") >= 0).then("best_latent")
    )


def _mean(marks: Bool[ndarray, " n"]) -> float:
    return float(marks.mean()) if len(marks) else 0.0


def _median(values: Float64[ndarray, " n"]) -> float | None:
    return float(np.median(values)) if len(values) else None
