"""Last stage: say in plain sentences what the tables say, bad results included."""

import polars as pl

from heredity.run import Run
from heredity.studies.features.config import StudyConfig

FVU_GOAL, CE_GOAL = 0.10, 0.95


def findings(run: Run, config: StudyConfig) -> pl.DataFrame:
    """Return the table `findings` (order, text), each sentence computed from the run's tables."""
    sentences = [
        *_losses(run.table("losses"), config),
        *_sweep(run.table("sweep")),
        *_quality(run.table("saes")),
        *_edges(run.table("edges"), config),
        *_inheritance(run, config),
        *_universal(run, config),
    ]
    return pl.DataFrame({"order": range(len(sentences)), "text": sentences}, schema={"order": pl.Int64, "text": pl.String})


def _losses(losses: pl.DataFrame, config: StudyConfig) -> list[str]:
    test = {(m, d): (v, low, high) for m, d, v, low, high in losses.select("member", "domain", "loss", "loss_low", "loss_high").iter_rows()}
    sentences = []
    for child in config.children:
        for domain in child.domains:
            base, own, merged = (test[m, domain] for m in (config.base.name, child.name, config.merge.name))
            order = "as it should be" if own[0] < merged[0] < base[0] else "which is not the order expected (child < merge < base)"
            kept = (base[0] - merged[0]) / (base[0] - own[0]) if base[0] != own[0] else float("nan")
            sentences.append(
                f"On {domain} test text the losses are {base[0]:.3f} (base), {own[0]:.3f} (child {child.name}) and "
                f"{merged[0]:.3f} nats per token (merge), {order}: fine-tuning gains {base[0] - own[0]:.3f}, "
                f"and the merge keeps {kept:.0%} of it."
            )
    return sentences


def _sweep(sweep: pl.DataFrame) -> list[str]:
    chosen = sweep.filter("chosen")
    kept = ", ".join(f"{gain:.0%} of {child}'s" for child, gain in chosen.select("child", "gain_kept").iter_rows())
    return [f"Of {sweep['t'].n_unique()} points on the SLERP, t = {chosen['t'][0]:.2f} was chosen on validation text; there the merge keeps {kept} gain."]


def _quality(saes: pl.DataFrame) -> list[str]:
    topk = saes.filter(pl.col("variant") == "topk")
    worst_fvu, worst_ce = topk["fvu"].max(), topk["ce_recovered"].min()
    reached = worst_fvu <= FVU_GOAL and worst_ce >= CE_GOAL  # type: ignore[operator]
    goal = "which meets" if reached else "which misses"
    sentence = (
        f"The {topk.height} TopK SAEs (L0 = {topk['l0'].mean():.1f}) leave at most {worst_fvu:.3f} of the variance unexplained (FVU) "
        f"and recover at least {worst_ce:.1%} of the loss that zero-ablation costs, {goal} the goal of FVU ≤ {FVU_GOAL:.2f} and {CE_GOAL:.0%}; "
        f"{topk['dead_share'].max():.1%} of latents at most never fire on held-out text."
    )
    l1 = saes.filter(pl.col("variant") == "l1")
    if l1.height == 0:
        return [sentence]
    return [
        sentence,
        f"The L1 SAE on {l1['member'][0]} stands at L0 = {l1['l0'][0]:.1f} and FVU {l1['fvu'][0]:.3f}: "
        "at another L0 its shares are not comparable with the TopK ones.",
    ]


def _edges(edges: pl.DataFrame, config: StudyConfig) -> list[str]:
    sentences = []
    for row in edges.filter(pl.col("tau") == config.lineage.tau).iter_rows(named=True):
        name = f"{row['parent']} → {row['child']}"
        text = (
            f"On {name}, {row['persist']:.1%} [{row['persist_low']:.1%}, {row['persist_high']:.1%}] of the parent's features persist at r ≥ {row['tau']:.2f}, "
            f"against a floor of {row['floor']:.2%} (within-domain shifts) and a ceiling of {row['ceiling']:.1%} (another seed of the same model)"
        )
        if row["heritability"] is None:
            text += "; the ceiling does not stand clear of the floor, so no heritability is given."
        else:
            text += f": heritability {row['heritability']:.2f} [{row['heritability_low']:.2f}, {row['heritability_high']:.2f}]."
        sentences.append(text + f" {row['disappear']:.1%} disappear, {row['undecided']:.1%} are undecided; {row['emerge']:.1%} of the child's features are new.")
    return sentences


def _inheritance(run: Run, config: StudyConfig) -> list[str]:
    if not run.has_table("inheritance"):
        return []
    share = {k: s for k, s in run.table("inheritance").select("kind", "share").iter_rows()}
    if not {"left only", "right only", "both", "neither"} <= share.keys():
        return []
    return [
        f"Of the merge's features {share['both']:.1%} are found in both parents, {share['left only']:.1%} only in {config.merge.left}, "
        f"{share['right only']:.1%} only in {config.merge.right}, and {share['neither']:.1%} in neither."
    ]


def _universal(run: Run, config: StudyConfig) -> list[str]:
    if not run.has_table("universal"):
        return []
    count = run.table("universal")["index"].n_unique() if run.table("universal").height else 0
    return [
        f"{count} features are found in all {len(config.members)} members. All shares are conditional on these SAEs "
        f"({config.sae.seeds} seeds per member): another dictionary size or seed gives other latents."
    ]
