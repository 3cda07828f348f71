"""Which latents of an edge are worth looking at first.

The score of a latent is interest × certainty. Interest rewards what fires often enough to matter and says
something about the text: how far its firings are from the stream's mix of domains (total variation), plus how
few tokens it fires on (1 − the entropy of its tokens over the entropy of all). Certainty is, for what
persists, the lower bound of r; for what emerges or disappears, τ minus the upper bound of the best r, over τ.
"""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64
from numpy import ndarray

from heredity.corpora.tokens import TokenStream
from heredity.features.codes import Codes
from heredity.features.describe import domain_shares
from heredity.features.inheritance import universal
from heredity.features.lineage import Lineage
from heredity.features.verdicts import Side

_SCHEMA = {
    "edge_parent": pl.String, "edge_child": pl.String, "kind": pl.String, "rank": pl.Int64, "member":
    pl.String, "seed": pl.Int64, "latent": pl.Int64, "partner_member": pl.String, "partner_seed": pl.Int64,
    "partner_latent": pl.Int64, "r": pl.Float64, "score": pl.Float64, "reason": pl.String,
}  # fmt: skip


def highlights_table(lineage: Lineage, stream: TokenStream, *, each: int = 10) -> pl.DataFrame:
    """Pick the most interesting latents: universal ones, and what persists, emerges, disappears on each edge.

    Of every edge the first seeds' comparison is shown. The edge of a universal feature is null.
    """
    interest = {name: interests(codes[0], stream) for name, codes in lineage.members.items()}
    rows = _universal(lineage, interest[lineage.root], each)
    tau = lineage.settings.tau
    for parent, child in lineage.edges:
        both = lineage.comparison(parent, 0, child, 0)
        plans = (
            ("persists", parent, child, both.parent, both.parent.persists),
            ("emerges", child, parent, both.child, both.child.disappears),
            ("disappears", parent, child, both.parent, both.parent.disappears),
        )
        for kind, member, partner, side, marked in plans:
            certainty = side.bounds.low if kind == "persists" else (tau - side.bounds.high) / tau
            score = np.where(marked, interest[member] * np.clip(certainty, 0, 1), 0.0)
            codes = lineage.members[member][0]
            for rank, latent in enumerate(map(int, np.lexsort((np.arange(len(score)), -score))[:each])):
                if score[latent] > 0:
                    rows.append(
                        {
                            "edge_parent": parent, "edge_child": child, "kind": kind, "rank": rank,
                            "member": member, "seed": 0, "latent": latent, "partner_member": partner,
                            **_partner(kind, side, latent), "score": float(score[latent]),
                            "reason": _reason(kind, partner, side, latent, codes, stream),
                        }
                    )  # fmt: skip
    return pl.DataFrame(rows, schema=_SCHEMA)


def interests(codes: Codes, stream: TokenStream) -> Float64[ndarray, " latents"]:
    """Score how telling each latent is: log frequency × (domain + token specificity), 0 if dead."""
    whole = np.bincount(np.asarray(stream.domain), minlength=len(stream.domains)) / stream.n_tokens
    domain = np.abs(domain_shares(codes, stream) - whole).sum(axis=1) / 2
    entropy = token_entropy(codes, stream)
    counts = np.bincount(np.asarray(stream.tokens).astype(np.int64))
    most = _entropy(counts[counts > 0])
    token = 1 - entropy / max(most, 1e-12)
    # Beyond 1 % of all tokens a latent is common enough; more firings make it no more interesting.
    often = np.clip(np.log1p(codes.firings) / np.log1p(0.01 * codes.n_tokens), 0, 1)
    interest: Float64[ndarray, " latents"] = np.where(codes.firings > 0, often * (domain + token) / 2, 0.0)
    return interest


def token_entropy(codes: Codes, stream: TokenStream) -> Float64[ndarray, " latents"]:
    """Return the entropy, in nats, of the tokens that each latent's activation falls on."""
    identifier = np.asarray(stream.tokens)[codes.tokens].astype(np.int64)
    out = np.zeros(codes.d_sae)
    for latent in np.flatnonzero(codes.firings):
        where = slice(codes.starts[latent], codes.starts[latent + 1])
        _, inverse = np.unique(identifier[where], return_inverse=True)
        out[latent] = _entropy(np.bincount(inverse, codes.values_by_latent[where]))
    return out


def _entropy(weights: ndarray) -> float:
    share = weights[weights > 0] / weights.sum()
    return float(-(share * np.log(share)).sum())


def _universal(lineage: Lineage, interest: Float64[ndarray, " latents"], each: int) -> list[dict[str, Any]]:
    """Rank universal features by the root latent's interest × the least r; name the partner with that r."""
    root = lineage.root
    own = universal(lineage).filter(member=root)
    latents, least = own["latent"].to_numpy(), own["r_min"].to_numpy()
    others = {name: lineage.comparison(root, 0, name, 0).parent for name in lineage.members if name != root}
    if not others:
        return []
    score = interest[latents] * least
    rows = []
    for rank, at in enumerate(np.lexsort((latents, -score))[:each]):
        latent, r = int(latents[at]), float(least[at])
        partner = min(others, key=lambda name: others[name].match_r[latent])
        rows.append(
            {
                "edge_parent": None, "edge_child": None, "kind": "universal", "rank": rank,
                "member": root, "seed": 0, "latent": latent, "partner_member": partner, "partner_seed": 0,
                "partner_latent": int(others[partner].match[latent]), "r": r, "score": float(score[at]),
                "reason": f"matched in all {len(lineage.members)} members, at the least with r = {r:.2f}",
            }
        )  # fmt: skip
    return rows


def _partner(kind: str, side: Side, latent: int) -> dict[str, Any]:
    kept = kind == "persists"
    other = int(side.match[latent] if kept else side.candidates.latent[latent, 0])
    return {
        "partner_seed": 0 if other >= 0 else None,
        "partner_latent": other if other >= 0 else None,
        "r": float(side.match_r[latent] if kept else side.best_r[latent]),
    }


def _reason(kind: str, partner: str, side: Side, latent: int, codes: Codes, stream: TokenStream) -> str:
    tokens, _ = codes.of_latent(latent)
    share = np.bincount(np.asarray(stream.domain)[tokens], minlength=len(stream.domains)) / max(
        1, len(tokens)
    )
    domain = stream.domains[int(share.argmax())]
    where = f"{100 * share.max():.0f} % of its {len(tokens):,} firings are in {domain}"
    if kind == "persists":
        r, low = side.match_r[latent], side.bounds.low[latent]
        return f"r = {r:.2f} (at least {low:.2f}) with its match in {partner}; {where}"
    return f"nothing in {partner} comes above r = {side.bounds.high[latent]:.2f}; {where}"
