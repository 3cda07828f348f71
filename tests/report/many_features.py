"""A run of as many features as asked for, invented: every latent has contexts, partners, words. Quick to make."""

from pathlib import Path

import numpy as np
import polars as pl
from made_up import EDGES, HOSTILE, MEMBERS, made_up_run

from heredity.run import Run

WORDS = [
    " the",
    " of",
    "\n",
    " local",
    "=",
    "(",
    ")",
    " self",
    ".",
    ",",
    " and",
    "ing",
    "\t",
    " return",
    HOSTILE,
    "é",
]
DOMAINS = ["plays", "python", "lua", "bible"]
CONTEXTS, LENGTH = 5, 19


def many_features(folder: Path, latents: int, seed: int = 0) -> Run:
    """Write `made_up_run` with `latents` latents for each of its four members; every tenth never fires."""
    run = made_up_run(folder)
    rng = np.random.default_rng(seed)
    words = [f" word{i}" for i in range(500)] + WORDS
    tables: dict[str, list[pl.DataFrame]] = {
        "latents": [],
        "contexts": [],
        "explanations": [],
        "latent_statistics": [],
    }
    for member in MEMBERS:
        firings = np.where(np.arange(latents) % 10 == 9, 0, rng.integers(10, 5000, latents))
        fires = np.flatnonzero(firings)
        picks = rng.integers(0, len(words), (latents, 8))
        top = [[words[i] for i in row] for row in picks]
        tables["latents"].append(pl.DataFrame({
            "member": [member] * latents, "seed": [0] * latents, "latent": np.arange(latents), "firings": firings,
            "firing_rate": firings / 400_000, "rare": (firings > 0) & (firings < 50), "dead": firings == 0,
            "mean_activation": rng.random(latents), "top_tokens": top, "interest": rng.random(latents),
            "domain_share": rng.dirichlet(np.ones(4), latents).tolist(), "domains": [DOMAINS] * latents,
        }))  # fmt: skip
        n = len(fires) * CONTEXTS
        shown = rng.integers(0, len(words), (n, LENGTH))
        heights = np.where(rng.random((n, LENGTH)) < 0.15, 4 * rng.random((n, LENGTH)), 0.0)
        heights[:, 12] = 3.0
        tables["contexts"].append(pl.DataFrame({
            "member": [member] * n, "seed": [0] * n, "latent": np.repeat(fires, CONTEXTS),
            "rank": np.tile(np.arange(CONTEXTS), len(fires)), "domain": rng.choice(DOMAINS, n),
            "document": ["share/runtime/lua/vim/lsp/util.lua"] * n, "position": rng.integers(0, 400_000, n),
            "tokens": [[words[i] for i in row] for row in shown], "activations": heights.tolist(),
            "peak": heights.max(axis=1),
        }))  # fmt: skip
        tables["explanations"].append(pl.DataFrame({
            "member": [member] * len(fires), "seed": [0] * len(fires), "latent": fires,
            "explainer": ["rules"] * len(fires),
            "rule": [f"token is {words[picks[i, 0]]!r}" for i in fires], "score": rng.random(len(fires)),
            "null_score": 0.1 * rng.random(len(fires)),
        }))  # fmt: skip
        tables["latent_statistics"].append(pl.DataFrame({
            "member": [member] * latents, "seed": [0] * latents, "latent": np.arange(latents),
            "rate_tokens": [row[:4] for row in top], "rates": rng.random((latents, 4)).tolist(),
            "context_excess": rng.random(latents) * 0.2, "context_position": rng.random(latents) * 64,
            "firings": firings, "top_shares": rng.random((latents, 1)).tolist(),
            "token_entropy": 4 * rng.random(latents), "document_early_share": rng.random(latents),
        }))  # fmt: skip
    for name, parts in tables.items():
        run.write_table(name, pl.concat(parts))
    run.write_table("matches", pl.concat([_matches(rng, *edge, latents) for edge in EDGES]))
    return run


def _matches(rng: np.random.Generator, parent: str, child: str, latents: int) -> pl.DataFrame:
    parts = []
    for side in ("parent", "child"):
        own = np.repeat(np.flatnonzero(np.arange(latents) % 10 != 9), 3)
        n = len(own)
        rank = np.tile(np.arange(3), n // 3)
        best = np.repeat(rng.random(n // 3), 3)
        gone = "disappears" if side == "parent" else "emerges"
        other = (own + rank) % latents
        parts.append(pl.DataFrame({
            "parent": [parent] * n, "child": [child] * n, "side": [side] * n, "seed_parent": np.zeros(n, np.int64),
            "seed_child": np.zeros(n, np.int64), "latent_parent": own if side == "parent" else other,
            "latent_child": other if side == "parent" else own, "r": best - 0.2 * rank, "joint_firings": own + 60,
            "rank": rank, "verdict": np.where(best >= 0.8, "persists", np.where(best < 0.7, gone, "undecided")),
        }))  # fmt: skip
    return pl.concat(parts)
