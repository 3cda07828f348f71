"""Sentences on the crosscoder: how good it is, whose its latents are, and whether it says what correlation says."""

from typing import Any

import polars as pl

from heredity.studies.features.wording import number, span


def sentences(
    latents: pl.DataFrame, quality: pl.DataFrame, meeting: pl.DataFrame, edges: pl.DataFrame
) -> list[str]:
    """Say what a crosscoder finds, and how its words meet correlation's.

    Args:
        latents: the table `crosscoder`; without rows there is nothing to say, nor of the others.
        quality: `crosscoder_quality`.
        meeting: `crosscoder_meeting`.
        edges: `crosscoder_edges`.
    """
    if not latents.height or not quality.height:
        return []
    said = [_whose(latents, quality)]
    if meeting.height:
        said.append(_words(meeting))
    if edges.height:
        said.append(_agreement(edges))
    return said


def _whose(latents: pl.DataFrame, quality: pl.DataFrame) -> str:
    judged = latents.filter(~pl.col("verdict").is_in(["rare", "dead"]))
    found = (
        f"A crosscoder over {_all(quality.height)} leaves {span(quality['fvu'])} of a member's variance "
        f"unexplained at a joint L0 of {number(quality['l0'][0]):.0f}"
    )
    if not judged.height:
        return f"{found}; none of its {latents.height:,} latents fires often enough to be judged."
    share = {
        verdict: judged.filter(verdict=verdict).height / judged.height
        for verdict in ("shared", "exclusive", "graded", "shrunk", "decoupled")
    }
    false = share["shrunk"] + share["decoupled"]
    return (
        f"{found}. Of its {judged.height:,} latents that can be judged {share['shared']:.1%} are shared by all "
        f"members, {share['graded']:.1%} are graded, {share['exclusive']:.1%} are exclusive to some, and {false:.1%} "
        "only look so."
    )


def _all(members: int) -> str:
    return "both members" if members == 2 else f"all {members} members"


def _words(meeting: pl.DataFrame) -> str:
    """Say what the crosscoder has for latents that persist, and for those that disappear or emerge."""
    counts = {
        (said, word): int(count)
        for said, word, count in meeting.group_by("correlation", "crosscoder")
        .agg(pl.col("count").sum())
        .iter_rows()
    }

    def share(words: tuple[str, ...], partners: tuple[str, ...]) -> float:
        """Return which part of the latents with some words of correlation has such a partner."""
        whole = sum(count for (said, _), count in counts.items() if said in words)
        own = (counts.get(pair, 0) for pair in zip(words, partners, strict=True))
        return sum(own) / whole

    kept, gone, parts = ("persists",), ("disappears", "emerges"), []
    if any(said in kept for said, _ in counts):
        parts.append(
            f"of what persists {share(kept, ('both',)):.0%} have a partner that both ends share and "
            f"{share(kept, ('unpaired',)):.0%} none"
        )
    if any(said in gone for said, _ in counts):
        parts.append(
            f"of what disappears or emerges {share(gone, ('both', 'both')):.0%} have "
            f"{'one' if parts else 'a partner'} that both ends share "
            f"nevertheless, {share(gone, ('parent only', 'child only')):.0%} one of that end alone, and "
            f"{share(gone, ('unpaired', 'unpaired')):.0%} none"
        )
    if not parts:
        return "No latent that correlation decides could be looked for in the crosscoder."
    return f"Looked for in the crosscoder: {'; '.join(parts)}."


def _agreement(edges: pl.DataFrame) -> str:
    decided = edges.filter(pl.col("n") > 0)
    if not decided.height:
        return "On no edge do correlation and the crosscoder both decide."
    weight = decided["n"] * decided["pairs"]
    whole = number(weight.sum())
    agree, chance = (number((decided[name] * weight).sum()) / whole for name in ("agree", "chance"))
    start = (
        f"Where both methods decide they say the same of {agree:.0%} of the latents, and would of {chance:.0%} with "
        "partners shuffled"
    )
    told = decided.drop_nulls("kappa")
    silent = decided.height - told.height
    if not told.height:
        return f"{start}: on every edge one of the methods has one word only, and nothing beyond chance can be seen."
    kappas = ", ".join(
        f"{row['parent']} → {row['child']} {row['kappa']:.2f}{_bounds(row)}"
        for row in told.iter_rows(named=True)
    )
    rest = (
        f" On {silent} edge{'' if silent == 1 else 's'} one of the methods has one word only."
        if silent
        else ""
    )
    return f"{start}; agreement beyond chance, κ: {kappas}.{rest}"


def _bounds(row: dict[str, Any]) -> str:
    if row["kappa_low"] is None:
        return ""
    return f" [{row['kappa_low']:.2f}, {row['kappa_high']:.2f}]"
