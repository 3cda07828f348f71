"""Last stage: say in plain sentences what the tables say, bad results included."""

import polars as pl

from heredity.run import Run
from heredity.studies.features import crosscoder_findings as crosscoder
from heredity.studies.features import identity_findings as identity
from heredity.studies.features import lineage_findings as lineage
from heredity.studies.features import meaning_findings as meaning
from heredity.studies.features.config import StudyConfig, Tracked
from heredity.studies.features.wording import number

FVU_GOAL, CE_GOAL = 0.10, 0.95


def findings(run: Run, config: Tracked) -> pl.DataFrame:
    """Return the table `findings` (order, text, section), each sentence computed from the run's tables.

    What a run has no table for is not said. `section` is the anchor of the report's part that has the numbers.
    """
    edges = run.table("edges").filter(tau=config.lineage.tau)
    agreed, shared = _table(run, "consensus_edges"), config.sae.init == "parent"
    said = {
        "losses": _losses(run.table("losses"), config) if isinstance(config, StudyConfig) else [],
        "sweep": _merge(run.table("sweep")) if run.has_table("sweep") else [],
        "saes": _quality(run.table("saes"), config.sae.variant),
        "persistence": lineage.edges(edges, shared_start=shared) + lineage.lost(edges, agreed),
        "identity": identity.sentences(_table(run, "identity")),
        "consensus": lineage.consensus(_table(run, "consensus"), agreed, edges),
        "inheritance": lineage.inheritance(run.table("inheritance")),
        "features": [
            lineage.universal(
                run.table("universal"), edges, run.table("latents"), config, shared_start=shared
            )
        ],
        "matchings": lineage.matchings(_table(run, "matchings"), config.lineage.tau),
        "historical": lineage.historical(_table(run, "historical")),
        "crosscoder": crosscoder.sentences(
            _table(run, "crosscoder"),
            _table(run, "crosscoder_quality"),
            _table(run, "crosscoder_meeting"),
            _table(run, "crosscoder_edges"),
        ),
        "ablation": meaning.ablation(_table(run, "ablation"), _table(run, "ablation_alike")),
        "meaning": [
            *meaning.words(_table(run, "explanation_summary")),
            *meaning.effects(_table(run, "measured_effects")),
        ],
        "limits": [_conditional(config)],
    }
    rows = [(text, section) for section, texts in said.items() for text in texts]
    return pl.DataFrame(
        {
            "order": range(len(rows)),
            "text": [text for text, _ in rows],
            "section": [section for _, section in rows],
        },
        schema={"order": pl.Int64, "text": pl.String, "section": pl.String},
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


def _quality(saes: pl.DataFrame, variant: str = "topk") -> list[str]:
    own = saes.filter(pl.col("variant") == variant)
    fvu, with_loss = number(own["fvu"].max()), own.drop_nulls("ce_recovered")
    recovered = number(with_loss["ce_recovered"].min()) if with_loss.height else None
    goal = f"FVU ≤ {FVU_GOAL:.2f}" + ("" if recovered is None else f" and {CE_GOAL:.0%} of the loss")
    more = ": the curve over L0 shows what more latents per token would explain" if variant == "topk" else ""
    verdict = (
        f"within the goal of {goal}"
        if fvu <= FVU_GOAL and (recovered is None or recovered >= CE_GOAL)
        else f"short of the goal of {goal}{more}"
    )
    silent = number(own["dead_share"].max())
    fired = (
        f"{f'Up to {silent:.1%}' if silent >= 0.001 else 'Less than 0.1%'} of an SAE's latents never fire on that text."
        if silent
        else "Every latent fires on it."
    )
    of_loss = "" if recovered is None else f" and recover at least {recovered:.1%} of the loss"
    return [
        f"The SAEs leave at most {fvu:.1%} of the variance unexplained at {_l0(own)}"
        f"{of_loss}, {verdict}. {fired}"
    ]


def _l0(saes: pl.DataFrame) -> str:
    """Say at which L0 SAEs stand: as a range where they differ."""
    low, high = (f"{number(end):.0f}" for end in (saes["l0"].min(), saes["l0"].max()))
    return f"L0 = {low}" if low == high else f"L0 from {low} to {high}"


def _conditional(config: Tracked) -> str:
    """Say what every share depends on."""
    whole = f"All shares are conditional on these SAEs ({config.sae.seeds} seeds per member"
    if config.sae.init == "random":
        return f"{whole})."
    return (
        f"{whole}, each child's begun at its parent's: what is shared between members is counted between different "
        "seeds; universal features, the released code's rule and the verdicts on consensus features are of SAEs that "
        "share a start)."
    )


def _table(run: Run, name: str) -> pl.DataFrame:
    """Return a table, one without rows where the run has not made it."""
    return run.table(name) if run.has_table(name) else pl.DataFrame()
