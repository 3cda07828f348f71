"""Sentences on a crosscoder are of its tables' numbers; without a crosscoder nothing is said."""

import polars as pl

from heredity.studies.features.crosscoder_findings import sentences

NOTHING = pl.DataFrame()
LATENTS = pl.DataFrame(
    {"verdict": ["shared"] * 12 + ["graded"] * 4 + ["exclusive"] * 2 + ["shrunk", "decoupled"] + ["dead"] * 9}
)
QUALITY = pl.DataFrame({"member": ["base", "lua"], "fvu": [0.12, 0.154], "l0": [31.6, 31.6]})


def meeting(counts: dict[tuple[str, str], int]) -> pl.DataFrame:
    rows = [(said, word, count) for (said, word), count in counts.items()]
    return pl.DataFrame(rows, schema=["correlation", "crosscoder", "count"], orient="row")


def edge(child: str, **changes: float | None) -> dict[str, object]:
    row = {
        "n": 50.0, "pairs": 4, "agree": 0.8, "chance": 0.6, "kappa": 0.5, "kappa_low": 0.41, "kappa_high": 0.58,
    }  # fmt: skip
    return {"parent": "base", "child": child, **row, **changes}


def test_nothing_is_said_without_a_crosscoder() -> None:
    assert sentences(NOTHING, NOTHING, NOTHING, NOTHING) == []


def test_latents_are_shares_of_those_that_can_be_judged() -> None:
    (text,) = sentences(LATENTS, QUALITY, NOTHING, NOTHING)
    assert text == (
        "A crosscoder over both members leaves 12.0 to 15.4% of a member's variance unexplained at a joint L0 of 32. "
        "Of its 20 latents that can be judged 60.0% are shared by all members, 20.0% are graded, 10.0% are exclusive "
        "to some, and 10.0% only look so."
    )
    (none,) = sentences(LATENTS.filter(verdict="dead"), QUALITY, NOTHING, NOTHING)
    assert none.endswith("none of its 9 latents fires often enough to be judged.")


def test_only_the_latents_own_end_counts_for_what_is_gone_or_new() -> None:
    table = meeting({
        ("persists", "both"): 60, ("persists", "unpaired"): 20, ("persists", "graded"): 20,
        ("disappears", "both"): 5, ("disappears", "parent only"): 20, ("disappears", "child only"): 15,
        ("emerges", "child only"): 10, ("emerges", "unpaired"): 50, ("undecided", "both"): 999,
    })  # fmt: skip
    _, text = sentences(LATENTS, QUALITY, table, NOTHING)
    assert text == (
        "Looked for in the crosscoder: of what persists 60% have a partner that both ends share and 20% none; of what "
        "disappears or emerges 5% have one that both ends share nevertheless, 30% one of that end alone, and 50% none."
    )
    _, gone = sentences(LATENTS, QUALITY, meeting({("emerges", "unpaired"): 9}), NOTHING)
    assert gone.startswith(
        "Looked for in the crosscoder: of what disappears or emerges 0% have a partner that both"
    )
    _, bare = sentences(LATENTS, QUALITY, meeting({("undecided", "both"): 9}), NOTHING)
    assert bare.startswith("No latent that correlation decides")


def test_agreement_stands_beside_shuffled_partners() -> None:
    edges = pl.DataFrame([
        edge("lua"), edge("far", n=150.0, agree=0.9, chance=0.9, kappa=None, kappa_low=None, kappa_high=None),
    ])  # fmt: skip
    _, text = sentences(LATENTS, QUALITY, NOTHING, edges)
    assert "say the same of 88% of the latents, and would of 82% with partners shuffled" in text
    assert text.endswith("κ: base → lua 0.50 [0.41, 0.58]. On 1 edge one of the methods has one word only.")
    _, flat = sentences(LATENTS, QUALITY, NOTHING, edges.filter(child="far"))
    assert flat.endswith("one word only, and nothing beyond chance can be seen.")
    silent = edges.with_columns(n=pl.lit(0.0))
    assert sentences(LATENTS, QUALITY, NOTHING, silent)[1].startswith("On no edge")
