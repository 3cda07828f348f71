"""What a crosscoder says of an edge beside what correlation says: two methods, one question.

Correlation judges the latents of two SAEs trained apart (verdicts.py); a crosscoder sees both members at once
(crosscoding.py). Each latent of a member's SAE is paired with the crosscoder's latent that correlates best with
it over the same stream; *persists* should meet *both*, *disappears* "parent only", *emerges* "child only".
"""

import numpy as np
import polars as pl
from jaxtyping import Int64
from msgspec import Struct
from numpy import ndarray

from heredity.errors import MismatchError
from heredity.features.codes import Codes
from heredity.features.correlate import correlate
from heredity.features.crosscoding import HAS, LACKS, NU_ERROR, NU_RECONSTRUCTION
from heredity.features.verdicts import Comparison, Side, Tracking

DECIDED = ("both", "parent only", "child only")
"""Words of a crosscoder that say which end has a feature."""

EXPECTED = {"persists": "both", "disappears": "parent only", "emerges": "child only"}
"""The crosscoder's word for each of correlation's."""


def against_correlation(
    table: pl.DataFrame,
    crosscoder: Codes,
    edge: tuple[str, str],
    codes: tuple[Codes, Codes],
    comparison: Comparison,
    settings: Tracking,
    *,
    paired: tuple[Int64[ndarray, " parents"], Int64[ndarray, " children"]] | None = None,
) -> pl.DataFrame:
    """Count how the verdicts of both methods meet on one edge.

    Args:
        table: `crosscoder_table` of a crosscoder over both ends, and perhaps others.
        crosscoder: its codes over the shared stream.
        edge: parent and child.
        codes: of the parent's and of the child's SAE over the same stream.
        comparison: of these two.
        settings: a pair needs r ≥ τ and `min_joint` joint firings, as a match does.
        paired: `partners` of the parent's and of the child's latents, if they are known already.

    Returns:
        one row per pair of words: member (whose latents are counted), correlation (persists | disappears |
        emerges | undecided), crosscoder (both | parent only | child only | neither | graded | shrunk |
        decoupled | rare | unpaired), count, share of the member's latents with that word of correlation.

    Raises:
        MismatchError: codes over different streams, or a table of another crosscoder.
    """
    if len(table) != crosscoder.d_sae:
        raise MismatchError(
            f"the table has {len(table)} latents, the crosscoder's codes {crosscoder.d_sae}",
            "give the table and the codes of one crosscoder",
        )
    words = words_of(table, edge)
    if paired is None:
        paired = partners(codes[0], crosscoder, settings), partners(codes[1], crosscoder, settings)
    ends = (
        (edge[0], paired[0], comparison.parent, "disappears"),
        (edge[1], paired[1], comparison.child, "emerges"),
    )
    parts = []
    for member, pair, side, gone in ends:
        judged = np.flatnonzero(side.eligible)
        parts.append(
            pl.DataFrame(
                {"correlation": judgement(side, gone)[judged], "crosscoder": words[pair[judged]]},
                schema={"correlation": pl.String, "crosscoder": pl.String},
            ).select(pl.lit(member).alias("member"), pl.all())
        )
    keys = ["member", "correlation", "crosscoder"]
    counts = pl.concat(parts).group_by(keys, maintain_order=True).len("count")
    order = [pl.col("member") == edge[1], *keys[1:]]
    share = pl.col("count") / pl.col("count").sum().over(keys[:2])
    return counts.with_columns(pl.col("count").cast(pl.Int64), share.alias("share")).sort(order)


class Agreement(Struct, frozen=True, kw_only=True):
    """Latents on which both methods decide, and how often they say the same.

    Attributes:
        n: latents that correlation decides and whose partner is in both, in the parent or in the child only.
        agree: share of them on which the methods say the same; null without any.
        chance: the share expected were the words of one method shuffled among each end's latents. Within an end,
            because a parent's latent is never "child only" by correlation: which end it is of says half already.
        kappa: (agree − chance) / (1 − chance), Cohen's κ; null where at each end one method has one word only.
    """

    n: int
    agree: float | None
    chance: float | None
    kappa: float | None


def agreement(meeting: pl.DataFrame) -> Agreement:
    """Summarise a table of `against_correlation`."""
    expected = pl.col("correlation").replace_strict(EXPECTED, default=None)
    decided = meeting.filter(pl.col("crosscoder").is_in(DECIDED)).with_columns(word=expected)
    decided = decided.drop_nulls("word")
    n = int(decided["count"].sum())
    if n == 0:
        return Agreement(n=0, agree=None, chance=None, kappa=None)
    agree = int(decided.filter(pl.col("word") == pl.col("crosscoder"))["count"].sum()) / n
    chance, telling = 0.0, False
    for _, end in decided.group_by("member", maintain_order=True):
        counts = np.zeros((len(DECIDED), len(DECIDED)))
        for one, other, count in end.select("word", "crosscoder", "count").iter_rows():
            counts[DECIDED.index(one), DECIDED.index(other)] += count
        said = counts.sum(axis=1), counts.sum(axis=0)
        chance += float(said[0] @ said[1]) / counts.sum() / n
        telling |= all(np.count_nonzero(words) > 1 for words in said)
    kappa = (agree - chance) / (1 - chance) if telling else None
    return Agreement(n=n, agree=agree, chance=chance, kappa=kappa)


def partners(own: Codes, crosscoder: Codes, settings: Tracking) -> Int64[ndarray, " latents"]:
    """Return the crosscoder's latent that matches each latent, −1 where none does."""
    best = correlate(
        own, crosscoder, top=settings.top, threshold=settings.tau, count_from=settings.tau
    ).forward
    enough = (best.r >= settings.tau) & (best.joint >= settings.min_joint)
    first = enough.argmax(axis=1)
    latent = best.latent[np.arange(len(first)), first].astype(np.int64)
    return np.where(enough.any(axis=1), latent, -1)


def words_of(table: pl.DataFrame, edge: tuple[str, str]) -> ndarray:
    """Return the crosscoder's word on every latent for one edge, and last that of a latent without a partner.

    The two ends alone are compared, whatever other members have: 0.8 and 0.2 are of the larger norm of the two, ν is
    the ratio of the end that lacks the latent to the other. Neither has it where both norms are at most 0.2 of the
    largest of all members.

    Raises:
        MismatchError: the crosscoder is not over both ends.
    """
    known = table["relative_norm"].struct.fields
    strangers = [name for name in edge if name not in known]
    if strangers:
        raise MismatchError(
            f"the crosscoder is over {known}, not over {strangers[0]!r}", "give it that edge's members"
        )
    norms, errors, again = (
        np.stack([table[column].struct.field(name).cast(pl.Float64).to_numpy() for name in edge], axis=1)
        for column in ("relative_norm", "nu_errors", "nu_reconstructions")
    )
    largest, lower = norms.max(axis=1), norms.argmin(axis=1)
    share = norms.min(axis=1) / np.maximum(largest, 1e-30)
    rows, alone = np.arange(len(table)), share <= LACKS
    with np.errstate(divide="ignore", invalid="ignore"):
        error = errors[rows, lower] / errors[rows, 1 - lower]
        reconstruction = again[rows, lower] / again[rows, 1 - lower]
    verdict = table["verdict"].to_numpy()
    words = np.select(
        [
            verdict == "dead", verdict == "rare", largest <= LACKS, share >= HAS, alone & ~(error < NU_ERROR),
            alone & ~(reconstruction < NU_RECONSTRUCTION), alone & (lower == 1), alone,
        ],
        ["dead", "rare", "neither", "both", "shrunk", "decoupled", "parent only", "child only"],
        "graded",
    )  # fmt: skip
    return np.array([*words, "unpaired"])


def judgement(side: Side, gone: str) -> ndarray:
    """Return correlation's word on every latent of one end; `gone` is that of a latent with no match."""
    return np.select([side.persists, side.disappears], ["persists", gone], "undecided")
