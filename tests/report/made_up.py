"""A made-up run of the feature study: every table of the report, with invented numbers and hostile tokens."""

from pathlib import Path

import numpy as np
import polars as pl
from made_up_checks import check_tables

from heredity.run import Run
from heredity.seeds import generator

MEMBERS = {"base": [], "lua": ["base"], "bible": ["base"], "lua-bible": ["lua", "bible"]}
EDGES = [(parent, child) for child, parents in MEMBERS.items() for parent in parents]
DOMAINS = ("plays", "python", "lua", "bible")
SEEN = {"base": DOMAINS[:2], "lua": DOMAINS[:3], "bible": (*DOMAINS[:2], "bible"), "lua-bible": DOMAINS}
HOSTILE = "</script><img src=x onerror=alert(1)>"
TEXT = [
    "local",
    " function",
    "\n",
    "\t",
    "return",
    " x",
    " =",
    " ",
    "{{ 7*7 }}",
    HOSTILE,
    "\u202e",
    "é",
    " begat",
    "&amp;",
]
SEEDS = (0, 1)


def made_up_run(folder: Path, *, only: tuple[str, ...] | None = None, seed: int = 0) -> Run:
    """Write a run with all tables, or only some, as after an early stage."""
    run = Run.open(
        folder,
        command="demo",
        config={"name": "made-up", "sae": {"site": "model.layers.0.mlp.down_proj:input"}},
        seed=seed,
    )
    run.finish_stage("text", dropped=40)
    run.finish_stage("train base")
    rng = generator(seed, "made-up tables")
    checks = check_tables(MEMBERS, DOMAINS, seed)
    for name, table in {**_models(rng), **_saes(rng), **_lineage(rng), **_features(rng), **checks}.items():
        if only is None or name in only:
            run.write_table(name, table)
    run.finish("done" if only is None else "running")
    return run


def _models(rng: np.random.Generator) -> dict[str, pl.DataFrame]:
    corpora = [
        {
            "domain": d,
            "split": s,
            "documents": n,
            "bytes": n * 30_000,
            "tokens": n * 9_000,
            "dropped_exact": 36,
            "dropped_near": 4,
        }
        for d in DOMAINS
        for s, n in (("train", 210), ("validation", 28), ("test", 42))
    ]
    members = [
        {
            "member": m,
            "relation": {0: "base", 1: "finetune", 2: "merge"}[len(p)],
            "parents": p,
            "domains": list(SEEN[m]),
            "path": f"family/{m}",
            "parameters": 1_310_848,
            "distance_to_base": 9.1 * len(p),
            "relative_to_base": 0.07 * len(p),
            "parent_distances": [9.1 / len(p)] * len(p) if p else [],
        }
        for m, p in MEMBERS.items()
    ]
    training = [
        {
            "member": m,
            "step": s,
            "tokens": s * 4096,
            "loss": 3 + 4 * np.exp(-s / 90) + rng.normal(0, 0.03),
            "learning_rate": 1e-3,
        }
        for m in ("base", "lua", "bible")
        for s in range(10, 400, 10)
    ]
    losses = []
    for m in MEMBERS:
        for d in DOMAINS:
            loss = 3.2 if d in SEEN[m] and m != "lua-bible" else 3.6 if m == "lua-bible" else 4.4
            losses.append(
                {
                    "member": m,
                    "split": "test",
                    "domain": d,
                    "loss": loss,
                    "loss_low": loss - 0.04,
                    "loss_high": loss + 0.05,
                    "accuracy": 1 / loss,
                    "accuracy_low": 0.9 / loss,
                    "accuracy_high": 1.1 / loss,
                    "n_tokens": 50_000,
                    "n_documents": 41,
                }
            )
    sweep = []
    for t in np.linspace(0, 1, 11):
        for d, far in (("lua", t), ("bible", 1 - t)):
            sweep.append(
                {
                    "t": float(t),
                    "child": d,
                    "domain": d,
                    "split": "validation",
                    "loss": 3.1 + far**2 * 1.2,
                    "accuracy": 0.41 - 0.2 * far**2,
                    "gain_kept": 1 - far**2,
                    "base_loss": 4.3,
                    "child_loss": 3.1,
                    "base_accuracy": 0.2,
                    "child_accuracy": 0.41,
                    "chosen": round(float(t), 1) == 0.5,
                }
            )
    tables = {"corpora": corpora, "members": members, "training": training, "losses": losses, "sweep": sweep}
    return {name: pl.DataFrame(rows) for name, rows in tables.items()}


def _saes(rng: np.random.Generator) -> dict[str, pl.DataFrame]:
    makes = [(m, "topk", s) for m in MEMBERS for s in SEEDS] + [("base", "l1", 0)]
    saes = [
        {
            "member": m,
            "variant": v,
            "seed": s,
            "d_in": 256,
            "d_sae": 4096,
            "k": 32 if v == "topk" else None,
            "l0": 32.0 if v == "topk" else 71.4,
            "fvu": 0.08 + 0.06 * rng.random(),
            "ce_clean": 3.21,
            "ce_sae": 3.24,
            "ce_zero": 6.02,
            "ce_recovered": 0.94 + 0.05 * rng.random(),
            "dead_share": 0.02,
            "n_tokens": 50_000,
            "train_tokens": 1_000_000,
        }
        for m, v, s in makes
    ]
    curve = [
        {
            "member": m,
            "variant": v,
            "seed": s,
            "k": k,
            "l0": float(k),
            "fvu": 0.6 * k**-0.5 + 0.01 * i,
            "ce_recovered": 1 - 0.5 / k,
        }
        for i, (m, v, s) in enumerate(makes)
        for k in (8, 16, 32, 64, 128)
    ]
    return {"saes": pl.DataFrame(saes), "sae_curve": pl.DataFrame(curve)}


def _lineage(rng: np.random.Generator) -> dict[str, pl.DataFrame]:
    edges, taus, histogram, flows = [], [], [], []
    for i, (parent, child) in enumerate(EDGES):
        persist = 0.18 + 0.05 * i
        edges.append(
            {
                "parent": parent,
                "child": child,
                "tau": 0.8,
                "n_parent": 2210.5,
                "n_child": 2304.0,
                "persist": persist,
                "persist_low": persist - 0.02,
                "persist_high": persist + 0.02,
                "disappear": 0.5,
                "undecided": 0.5 - persist,
                "emerge": 0.51,
                "emerge_undecided": 0.2,
                "split": 0.11,
                "split_floor": 0.004,
                "split_ceiling": 0.13,
                "fuse": 0.12,
                "fuse_ceiling": 0.14,
                "rare_parent": 1410.0,
                "rare_child": 1320.0,
                "floor": 0.0012,
                "floor_p95": 0.003,
                "ceiling": 0.44,
                "ceiling_parent": 0.46,
                "ceiling_child": 0.42,
                "heritability": None if i == 3 else persist / 0.44,
                "heritability_low": None if i == 3 else persist / 0.44 - 0.05,
                "heritability_high": None if i == 3 else persist / 0.44 + 0.05,
                "decided_by": "bound",
                "n_seed_pairs": 4,
                "decoder_cosine_median": 0.81,
            }
        )
        taus += [
            {
                "parent": parent,
                "child": child,
                "tau": float(tau),
                "persist": (1 - tau) ** 0.7,
                "floor": 0.05 * (1 - tau) ** 2,
                "ceiling": (1 - tau) ** 0.4,
                "heritability": (1 - tau) ** 0.3,
                "persist_low": 0.95 * (1 - tau) ** 0.7,
                "persist_high": 1.05 * (1 - tau) ** 0.7,
                "fdr": 0.01 * tau,
                "fdr_high": 0.02 * tau,
            }
            for tau in np.linspace(0.5, 0.98, 25)
        ]
        for kind, centre in (("observed", 0.6), ("floor", 0.15), ("ceiling", 0.75)):
            counts, bins = np.histogram(
                np.clip(rng.normal(centre, 0.18, 4000), -0.1, 1), bins=np.linspace(-0.1, 1, 45)
            )
            histogram += [
                {
                    "parent": parent,
                    "child": child,
                    "kind": kind,
                    "low": float(a),
                    "high": float(b),
                    "share": c / 4000,
                }
                for a, b, c in zip(bins, bins[1:], counts, strict=False)
            ]
        for kind, share in (("persists", persist), ("disappears", 0.5), ("undecided", 0.5 - persist)):
            target = child if kind == "persists" else f"{parent}: {kind} in {child}"
            flows.append(
                {
                    "source": parent,
                    "target": target,
                    "parent": parent,
                    "child": child,
                    "kind": kind,
                    "share": share,
                    "count": 2200 * share,
                }
            )
        if i < 3:  # the merge's own new features are one band, not one for each parent
            flows.append(
                {
                    "source": f"{child}: new",
                    "target": child,
                    "parent": parent,
                    "child": child,
                    "kind": "emerges",
                    "share": 0.51,
                    "count": 1120.0,
                }
            )
    kinds = [
        ("", "left only", 0.2),
        ("", "right only", 0.25),
        ("", "both", 0.3),
        ("", "neither", 0.25),
        ("lua", "kept", 0.6),
    ]
    kinds += [
        ("lua", "lost", 0.4),
        ("bible", "kept", 0.7),
        ("bible", "lost", 0.3),
        ("", "old", 0.5),
        ("", "learned", 0.3),
        ("", "new", 0.2),
    ]
    inheritance = [
        {
            "merge": "lua-bible",
            "left": "lua",
            "right": "bible",
            "of": of,
            "kind": k,
            "share": s,
            "count": round(2200 * s),
            "floor": 0.01,
            "ceiling": 0.44 if k in ("kept", "both") else None,
        }
        for of, k, s in kinds
    ]
    tables = {
        "edges": edges,
        "tau_curve": taus,
        "r_histogram": histogram,
        "flows": flows,
        "inheritance": inheritance,
    }
    return {name: pl.DataFrame(rows) for name, rows in tables.items()}


def _features(rng: np.random.Generator) -> dict[str, pl.DataFrame]:
    highlights, latents, contexts, explanations = [], [], [], []
    chosen = [(None, None, "universal", r) for r in range(10)]
    chosen += [
        (p, c, k, r) for p, c in EDGES for k in ("persists", "emerges", "disappears") for r in range(5)
    ]
    for i, (parent, child, kind, rank) in enumerate(chosen):
        member = "base" if parent is None else child if kind == "emerges" else parent
        partner = "lua-bible" if parent is None else parent if kind == "emerges" else child
        highlights.append(
            {
                "edge_parent": parent,
                "edge_child": child,
                "kind": kind,
                "rank": rank,
                "member": member,
                "seed": 0,
                "latent": i,
                "partner_member": partner,
                "partner_seed": 1,
                "partner_latent": i,
                "r": 0.93 - 0.05 * rank,
                "score": 0.5,
                "reason": "fires on line ends of code only; r is far above its floor",
            }
        )
        for name, s in ((member, 0), (partner, 1)):
            latents.append(
                {
                    "member": name,
                    "seed": s,
                    "latent": i,
                    "firings": 431,
                    "firing_rate": 0.00431,
                    "rare": False,
                    "dead": False,
                    "mean_activation": 0.7,
                    "top_tokens": [str(t) for t in rng.choice(TEXT, 5)],
                    "domain_share": [0.1, 0.2, 0.6, 0.1],
                }
            )
            explanations.append(
                {
                    "member": name,
                    "seed": s,
                    "latent": i,
                    "explainer": "rules",
                    "rule": f"token is one of {HOSTILE}, ⏎",
                    "score": 0.71,
                    "null_score": 0.04,
                    "failed": None,
                }
            )
            for place in range(5):
                words = [str(w) for w in rng.choice(TEXT, 28)]
                strength = np.where(rng.random(28) < 0.2, rng.random(28) * 4, 0.0)
                contexts.append(
                    {
                        "member": name,
                        "seed": s,
                        "latent": i,
                        "rank": place,
                        "domain": "lua",
                        "document": "share/runtime/lua/vim/lsp/util.lua",
                        "position": 400,
                        "tokens": words,
                        "activations": strength.tolist(),
                        "peak": float(strength.max()),
                    }
                )
    universal = [
        {"index": i, "member": m, "seed": 0, "latent": i, "r_min": 0.9 - 0.01 * i}
        for i in range(14)
        for m in MEMBERS
    ]
    findings = [
        "The merge at t = 0.50 keeps 75 % of the gain on lua and 75 % on bible.",
        "On every edge 18 to 33 % of features persist, where chance gives 0.1 % and a second look 44 %.",
        "These numbers are made up <b>for a test</b>.",
    ]
    tables = {
        "highlights": highlights,
        "latents": latents,
        "contexts": contexts,
        "explanations": explanations,
        "universal": universal,
    }
    return {
        **{name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in tables.items()},
        "findings": pl.DataFrame(
            {"order": [0, 1, 2], "text": findings, "section": ["sweep", "persistence", "persistence"]}
        ),
    }
