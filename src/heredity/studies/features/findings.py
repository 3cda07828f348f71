"""Last stage: say in plain sentences what the tables say, bad results included."""

from typing import Any

import polars as pl

from heredity.run import Run
from heredity.studies.features.config import StudyConfig, Tracked

FVU_GOAL, CE_GOAL = 0.10, 0.95


def findings(run: Run, config: Tracked) -> pl.DataFrame:
    """Return the table `findings` (order, text), each sentence computed from the run's tables."""
    sentences = [
        *(_losses(run.table("losses"), config) if isinstance(config, StudyConfig) else []),
        *(_merge(run.table("sweep")) if run.has_table("sweep") else []),
        *_quality(run.table("saes")),
        *_edges(run.table("edges"), config),
        *_inheritance(run.table("inheritance")),
        _universal(run.table("universal"), run.table("edges"), config),
        f"All shares are conditional on these SAEs ({config.sae.seeds} seeds per member).",
    ]
    return pl.DataFrame(
        {"order": range(len(sentences)), "text": sentences}, schema={"order": pl.Int64, "text": pl.String}
    )


def _losses(losses: pl.DataFrame, config: StudyConfig) -> list[str]:
    columns = losses.select("member", "domain", "loss", "loss_low", "loss_high")
    test = {(member, domain): (loss, low, high) for member, domain, loss, low, high in columns.iter_rows()}
    sentences = []
    for child in config.children:
        for domain in child.domains:
            base, own, merged = (
                test[member, domain] for member in (config.base.name, child.name, config.merge.name)
            )
            ordered = own[0] < merged[0] < base[0]
            clear = own[2] < base[1]
            sentences.append(
                f"Fine-tuning lowers the loss on {domain} from {base[0]:.2f} to {own[0]:.2f} nats per token"
                f"{'' if clear else ' (the intervals overlap)'}, and the merge stands at {merged[0]:.2f}"
                f"{'' if ordered else ', which is not between the two'}."
            )
    return sentences


def _merge(sweep: pl.DataFrame) -> list[str]:
    chosen = sweep.filter("chosen")
    kept = " and ".join(
        f"{gain:.0%} of {child}'s" for child, gain in chosen.select("child", "gain_kept").iter_rows()
    )
    return [f"At t = {chosen['t'][0]:.2f}, chosen on validation text, the merge keeps {kept} gain."]


def _quality(saes: pl.DataFrame) -> list[str]:
    topk = saes.filter(pl.col("variant") == "topk")
    fvu, with_loss = _number(topk["fvu"].max()), topk.drop_nulls("ce_recovered")
    recovered = _number(with_loss["ce_recovered"].min()) if with_loss.height else None
    goal = f"FVU ≤ {FVU_GOAL:.2f}" + ("" if recovered is None else f" and {CE_GOAL:.0%}")
    verdict = (
        f"within the goal of {goal}"
        if fvu <= FVU_GOAL and (recovered is None or recovered >= CE_GOAL)
        else f"short of the goal of {goal}: the curve over L0 shows what more latents per token would explain"
    )
    of_loss = "" if recovered is None else f" and recover at least {recovered:.1%} of the loss"
    return [
        f"The SAEs leave at most {fvu:.1%} of the variance unexplained at L0 = {_number(topk['l0'].mean()):.0f}"
        f"{of_loss}, {verdict}."
    ]


def _edges(edges: pl.DataFrame, config: Tracked) -> list[str]:
    rows = list(edges.filter(pl.col("tau") == config.lineage.tau).iter_rows(named=True))
    sentences = []
    for row in rows:
        ratio = (
            "no heritability can be given, for the ceiling does not stand clear of the floor"
            if row["heritability"] is None
            else f"a heritability of {row['heritability']:.2f} "
            f"[{row['heritability_low']:.2f}, {row['heritability_high']:.2f}]"
        )
        sentences.append(
            f"From {row['parent']} to {row['child']}, {row['persist']:.1%} of features persist at "
            f"r ≥ {row['tau']:.2f}: by chance {row['floor']:.1%} would, and two SAEs of one model share "
            f"{row['ceiling']:.1%}, which makes {ratio}."
        )
    lost, twin = 1 - _mean(rows, "persist"), 1 - _mean(rows, "ceiling")
    sentences.append(
        f"On average {lost:.0%} of a parent's latents find no partner in the child, but {twin:.0%} find none in a "
        f"second SAE of the same model either: most of what looks lost is the SAE's choice, not the fine-tune's."
        if twin > 0.5 * lost
        else f"On average {lost:.0%} of a parent's latents find no partner in the child, against {twin:.0%} in a "
        f"second SAE of the same model."
    )
    return sentences


def _inheritance(inheritance: pl.DataFrame) -> list[str]:
    sentences = []
    for (merge, left, right), rows in inheritance.group_by("merge", "left", "right", maintain_order=True):
        share = dict(rows.select("kind", "share").iter_rows())
        found = rows.filter(pl.col("kind").is_in(["left only", "right only", "both"]))
        chance, again = _number(found["floor"].sum()), found["ceiling"].max()
        ceiling = "" if again is None else f", and a second SAE of {merge} finds {_number(again):.1%} again"
        sentences.append(
            f"Of the features of {merge} {share['both']:.1%} are found in both parents, {share['left only']:.1%} "
            f"only in {left}, {share['right only']:.1%} only in {right}, and {share['neither']:.1%} in neither; "
            f"by chance {chance:.1%} would be found in one{ceiling}."
        )
    return sentences


def _universal(universal: pl.DataFrame, edges: pl.DataFrame, config: Tracked) -> str:
    count = universal["index"].n_unique() if universal.height else 0
    own = edges.filter((pl.col("tau") == config.lineage.tau) & (pl.col("parent") == config.root))
    # What is matched in all members is matched on each of the root's edges: the lower floor bounds its chance.
    chance = _number(own["floor"].min())
    return (
        f"{count} features of {config.root}'s first SAE are matched in all {len(config.members)} members: "
        f"{count / config.sae.latents:.1%} of its latents, where chance gives at most {chance:.1%} "
        f"and a second SAE of {config.root} finds {_number(own['ceiling_parent'].max()):.1%} again."
    )


def _mean(rows: list[dict[str, Any]], column: str) -> float:
    return sum(float(row[column]) for row in rows) / len(rows)


def _number(value: Any) -> float:
    return float(value)
