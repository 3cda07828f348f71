"""Invented tables of the report's later sections: other matchings, consensus, the historical rule, removal, meaning."""

from typing import Any

import numpy as np
import polars as pl

from heredity.seeds import generator

KINDS = ("persists", "disappears", "emerges")
LATENTS = 60


def check_tables(
    members: dict[str, list[str]], domains: tuple[str, ...], seed: int
) -> dict[str, pl.DataFrame]:
    """Make the tables for a family: its members with their parents."""
    edges = [(parent, child) for child, parents in members.items() for parent in parents]
    rng = generator(seed, "made-up checks")
    return {
        "matchings": pl.DataFrame(_matchings(edges)),
        **{name: pl.DataFrame(rows) for name, rows in _consensus(list(members), edges).items()},
        "historical": pl.DataFrame(_historical(edges)),
        **_ablation(edges, domains),
        **_meaning(list(members), rng),
        "warnings": pl.DataFrame({"text": ["plays has only 2 documents <b>in</b> the stream"]}),
    }


def _matchings(edges: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "parent": parent, "child": child, "matching": matching, "tau": tau, "persist": share,
            "persist_min": share - 0.01, "persist_max": share + 0.01, "persist_child": share, "floor": 0.001,
            "floor_p95": 0.003, "fdr": 0.0042, "fdr_high": 0.0231, "ceiling": 2 * share,
            "decoder_cosine_median": 0.77, "decoder_cosine_null": 0.06,
        }
        for parent, child in edges
        for matching, share in (("best", 0.31), ("mutual", 0.17), ("hungarian", 0.23))
        for tau in (0.7, 0.8)
    ]  # fmt: skip


def _consensus(members: list[str], edges: list[tuple[str, str]]) -> dict[str, list[dict[str, Any]]]:
    whole: list[dict[str, Any]] = [
        {
            "member": member, "held_out": out, "n_seeds": 3 if out is None else 2, "needed": 2, "n_features": 411,
            "share_of_latents": 0.257, "share_min": 0.24, "share_max": 0.27, "found": 0.644,
            "found_low": 0.6 if out is None else None, "found_high": 0.68 if out is None else None,
        }
        for member in members
        for out in (None, 0, 1, 2)
    ]  # fmt: skip
    steps = [
        {
            "parent": parent, "child": child, "tau": 0.8, "n_parent": 411, "n_child": 402, "found": 0.424,
            "found_low": 0.38, "found_high": 0.47, "found_child": 0.4, "floor": 0.0021, "floor_p95": 0.004,
            "ceiling": 0.643, "ceiling_low": 0.6, "ceiling_high": 0.68, "heritability": 0.66,
            "heritability_low": 0.59, "heritability_high": 0.72, "persist": 0.467, "persist_low": 0.43,
            "persist_high": 0.5, "vanish": 0.449, "undecided": 0.084, "persist_child": 0.45, "emerge": 0.46,
            "emerge_undecided": 0.09, "decided_by": "documents and seeds resampled",
        }
        for parent, child in edges
    ]  # fmt: skip
    latents: list[dict[str, Any]] = [
        {
            "member": member, "feature": feature, "seed": seed, "latent": 3 + feature, "medoid": seed == 0,
            "found_by": 2, "r": 0.9,
        }
        for member in members
        for feature in range(4)
        for seed in (0, 1)
    ]  # fmt: skip
    return {"consensus": whole, "consensus_edges": steps, "consensus_latents": latents}


def _historical(edges: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "parent": parent, "child": child, "codes": codes, "tau": 0.8, "persist": share, "tried": 512,
            "pairs": 250_000, "passed": 40_000, "passed_share": 0.16, "passed_of_two": 0.36,
            "passed_below_ten": 0.95, "matches_per_latent": many, "ours": ours,
        }
        for parent, child in edges
        for codes, share, many, ours in (("observed", 0.988, 118.0, 0.269), ("shifted", 0.44, 1.3, 0.0))
    ]  # fmt: skip


def _ablation(edges: list[tuple[str, str]], domains: tuple[str, ...]) -> dict[str, pl.DataFrame]:
    sets: list[tuple[str, str, str | None, str | None, int | None, int, float]] = []
    for parent, child in edges:
        for kind, cost in zip(KINDS, (0.06, 0.08, 0.09), strict=True):
            sets.append((child if kind == "emerges" else parent, kind, parent, child, None, 550, cost))
    members = list(dict.fromkeys(name for edge in edges for name in edge))
    sets += [
        (name, "latent", None, None, latent, 1, 0.0002 * latent) for name in members for latent in range(5)
    ]
    rows = [
        {
            "member": member, "seed": 0, "kind": kind, "parent": parent, "child": child, "latent": latent,
            "n_latents": n, "domain": domain, "loss_change": cost,
            "low": None if domain == domains[0] else cost - 0.001,
            "high": None if domain == domains[0] else cost + 0.001, "moved": 2 * cost, "firings": 4000,
            "per_firing": 8 * cost,
        }
        for member, kind, parent, child, latent, n, cost in sets
        for domain in (*domains, "all")
    ]  # fmt: skip
    alike = [
        {
            "parent": parent, "child": child, "domain": domain, "effect": effect, "n_pairs": 40 if known else 5,
            "mean_parent": 0.001, "mean_child": 0.001, "pearson": 0.5 if known else None,
            "spearman": 0.48 if known else None, "spearman_low": 0.16 if known else None,
            "spearman_high": 0.73 if known else None, "null": 0.15 if known else None,
            "null_low": -0.05 if known else None, "null_high": 0.36 if known else None,
            "p": 0.004 if known else None,
        }
        for place, (parent, child) in enumerate(edges)
        for known in (place > 0,)
        for domain in (*domains, "all")
        for effect in ("loss_change", "moved")
    ]  # fmt: skip
    tables = {"ablation": rows, "ablation_alike": alike}
    return {name: pl.DataFrame(table, infer_schema_length=None) for name, table in tables.items()}


def _meaning(members: list[str], rng: np.random.Generator) -> dict[str, pl.DataFrame]:
    statistics, effects, measured, summary = [], [], [], []
    for member in members:
        for latent in range(LATENTS):
            who = {"member": member, "seed": 0, "latent": latent}
            statistics.append(who | {
                "firings": 20 if latent == 0 else 431, "top_shares": [0.9 if latent < 15 else 0.2],
                "rate_tokens": [" x"], "rates": [0.8], "token_entropy": float(np.log(1 + latent % 9)),
                "context_position": 7.0, "context_excess": 0.2 if latent < 6 else 0.0, "document_early_share": 0.01,
            })  # fmt: skip
            effects.append(who | {
                "promoted": [" a"], "suppressed": [" b"], "observed": 0.4 + 0.01 * latent, "observed_null": 0.0,
                "observed_null_high": 0.7, "directness": 0.93,
            })  # fmt: skip
        measured += [
            {
                "member": member, "seed": 0, "latent": latent, "measured": 0.88, "measured_null": -0.02,
                "measured_null_high": 0.3 + 0.1 * rng.random(), "n_contexts": 4,
            }
            for latent in range(10)
        ]  # fmt: skip
        summary.append({
            "member": member, "explainer": "rules", "latents": 62, "explained": 61, "failed": 1, "score": 0.714,
            "score_median": 0.75, "null_score": 0.012, "above_null": 1.0, "above_every_null": 0.987,
            "above_by_chance": 1 / 11, "calls": 0, "prompt_tokens": 0, "completion_tokens": 0,
        })  # fmt: skip
    tables = {
        "latent_statistics": statistics, "effects": effects, "measured_effects": measured,
        "explanation_summary": summary,
    }  # fmt: skip
    return {name: pl.DataFrame(rows) for name, rows in tables.items()}
