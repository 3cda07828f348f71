"""Sentences on what features are worth: what their removal costs, how well words say them, what they promote."""

import polars as pl

from heredity.studies.features.wording import decimals, number, plain

ALL = "all"
_P = 0.05


def ablation(table: pl.DataFrame, alike: pl.DataFrame) -> list[str]:
    """Say what the removal of whole sets costs, and whether what persists also matters alike.

    Args:
        table: `ablation`; may be empty.
        alike: `ablation_alike`; may be empty.
    """
    return [*_sets(table), *_alike(alike)]


def words(summary: pl.DataFrame) -> list[str]:
    """Say how well each explainer does on held-out contexts; the table `explanation_summary` may be empty."""
    if not summary.height:
        return []
    sentences = []
    for (explainer,), rows in summary.filter(pl.col("explained") > 0).group_by(
        "explainer", maintain_order=True
    ):
        n, total = rows["explained"], int(rows["explained"].sum())
        score, null, above, chance = (
            number((rows[name].fill_null(0.0) * n).sum()) / total
            for name in ("score", "null_score", "above_every_null", "above_by_chance")
        )
        sentences.append(
            f"The explanations by {explainer} of {total:,} latents score {score:.2f} on average on contexts that "
            f"they were not made from, those of other latents {plain(null)}; {above:.0%} are better than every random "
            f"one, where chance gives {chance:.0%}."
        )
    return sentences


def effects(measured: pl.DataFrame) -> list[str]:
    """Say whether removal does what direct effects promise; the table `measured_effects` may be empty."""
    if not measured.height:
        return []
    own = measured.drop_nulls(["measured", "measured_null_high"])
    if not own.height:
        return []
    above = number((own["measured"] > own["measured_null_high"]).mean())
    return [
        f"Taken out where they fire most, {own.height} features change the next token's probabilities as their direct "
        f"effect says, at a correlation of {plain(own['measured'].mean())} on average; other latents' effects reach "
        f"{plain(own['measured_null'].mean())}, and {above:.0%} of the features are above 95% of them."
    ]


def _sets(table: pl.DataFrame) -> list[str]:
    if not table.height:
        return []
    whole = table.filter(pl.col("domain") == ALL, pl.col("kind") != "latent")
    means = whole.group_by("kind", maintain_order=True).agg(
        pl.col("loss_change").mean(),
        pl.col("n_latents").mean(),
        each=(1000 * pl.col("loss_change") / pl.col("n_latents")).mean(),
    )
    parts = [
        f"all that {row['kind']} {plain(row['loss_change'], 3)} nats per token ({row['n_latents']:,.0f} latents, "
        f"{plain(row['each'])} for a thousand)"
        for row in means.iter_rows(named=True)
    ]
    return [f"Mean over the edges, removal costs a member: {', '.join(parts)}."] if parts else []


def _alike(alike: pl.DataFrame) -> list[str]:
    if not alike.height:
        return []
    sentences = []
    for effect, said in (("loss_change", "change the loss"), ("moved", "move single tokens' losses")):
        rows = alike.filter(domain=ALL, effect=effect).drop_nulls("spearman")
        if not rows.height:
            continue
        clear = int((rows["p"] <= _P).sum())
        sentences.append(
            f"On {clear} of {rows.height} edges the two latents of a pair that persists {said} more alike than "
            f"strangers that fire as often (p ≤ {_P:.2f}): Spearman {decimals(rows['spearman'])} against "
            f"{decimals(rows['null'])}."
        )
    return sentences
