"""The crosscoder's section says what its tables say, beside its nulls; a run without one has no such section."""

import re
from pathlib import Path

import polars as pl
import pytest
from made_up import EDGES, MEMBERS, made_up_run
from test_feature_sections import text_of

from heredity.report import crosscoder_figures, feature_page
from heredity.run import Run

VERDICTS = ["shared"] * 6 + ["exclusive"] * 2 + ["graded", "shrunk", "rare", "dead", "dead"]
MEETING = {
    ("persists", "both"): 30, ("persists", "graded"): 10, ("disappears", "unpaired"): 90, ("disappears", "both"): 8,
    ("disappears", "decoupled"): 2, ("emerges", "child only"): 5, ("emerges", "unpaired"): 15,
}  # fmt: skip


def crosscoder_tables() -> dict[str, pl.DataFrame]:
    norms = [dict.fromkeys(MEMBERS, 1.0)] * 6 + [{name: float(name == "lua") for name in MEMBERS}] * 2
    norms += [dict.fromkeys(MEMBERS, 0.5) | {"base": 1.0}] * 5
    owners = [list(MEMBERS)] * 6 + [["lua"]] * 2 + [["base"]] * 5
    latents = {"latent": range(13), "relative_norm": norms, "owners": owners, "verdict": VERDICTS}
    quality = [
        {"member": name, "l0": 31.7, "fvu": 0.1 + 0.01 * place, "ce_recovered": 0.9 if place else None}
        for place, name in enumerate(MEMBERS)
    ]
    meeting = [
        {
            "parent": parent, "child": child, "seed_parent": s, "seed_child": t, "correlation": said,
            "member": child if said == "emerges" else parent, "crosscoder": word, "count": count, "share": 0.0,
        }
        for parent, child in EDGES for s in (0, 1) for t in (0, 1) for (said, word), count in MEETING.items()
    ]  # fmt: skip
    edges = [
        {
            "parent": parent, "child": child, "pairs": 4, "n": 43.0, "agree": 0.814, "agree_low": 0.7,
            "agree_high": 0.9, "chance": 0.61, "chance_p95": 0.66, "kappa": None if place else 0.52,
            "kappa_low": None if place else 0.4,
            "kappa_high": None if place else 0.63, "kappa_min": None if place else 0.5,
            "kappa_max": None if place else 0.55,
        }
        for place, (parent, child) in enumerate(EDGES)
    ]  # fmt: skip
    pairs = [
        {
            "member": name, "n": 140.0, "paired": 0.31, "paired_min": 0.3, "paired_max": 0.32, "floor": 0.0012,
            "floor_p95": 0.004,
        }
        for name in MEMBERS
    ]  # fmt: skip
    made = {"crosscoder": latents, "crosscoder_quality": quality, "crosscoder_meeting": meeting}
    return {
        **{name: pl.DataFrame(rows) for name, rows in made.items()},
        "crosscoder_edges": pl.DataFrame(edges),
        "crosscoder_pairs": pl.DataFrame(pairs),
    }


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = made_up_run(tmp_path_factory.mktemp("crossed") / "run")
    for name, table in crosscoder_tables().items():
        run.write_table(name, table)
    line = "crosscoder beside SAEs: L0 21.0 (the crosscoder) and 32.0 (lua seed 0) differ by more than 20 %"
    warning = pl.DataFrame({"text": [line], "section": ["crosscoder"]})
    run.write_table("warnings", warning)
    return run


def test_a_run_without_a_crosscoder_has_no_section(tmp_path: Path, crossed: Run) -> None:
    assert 'id="crosscoder"' not in feature_page.draw(made_up_run(tmp_path / "run"))
    assert feature_page.draw(crossed).count('<section id="crosscoder"') == 1


def test_its_latents_are_counted_among_those_that_can_be_judged(crossed: Run) -> None:
    text = text_of(feature_page.draw(crossed), "crosscoder")
    assert "Of 13 latents 10 can be judged; 1 fire too rarely on this text and 2 not at all" in text
    assert "shared 6 60.0 % exclusive lua 2 20.0 % graded 1 10.0 % shrunk 1 10.0 %" in text
    assert "base 31.7 0.100 –" in text


def test_l0_too_far_apart_is_said_where_the_shares_are(crossed: Run) -> None:
    text = text_of(feature_page.draw(crossed), "crosscoder")
    assert "L0 21.0 (the crosscoder) and 32.0 (lua seed 0) differ by more than 20 %." in text


def test_words_meet_by_end_and_stand_with_floor_and_chance(crossed: Run) -> None:
    html = feature_page.draw(crossed)
    text = text_of(html, "crosscoder")
    row = "● persists 40 75 % 0 % 0 % 25 % 0 % 0 % ▼ disappears 100 8 % 0 % 0 % 0 % 2 % 90 %"
    assert text.count(row) == len(EDGES)
    assert text.count("▲ emerges 20 0 % 0 % 25 % 0 % 0 % 75 %") == len(EDGES)
    assert text.count("140 31.0 % 30.0 to 32.0 % by seed 0.12 % 95th pct. 0.40 %") == len(MEMBERS)
    assert "43 81.4 % 70.0 to 90.0 % 61.0 % 95th pct. 66.0 % 0.52 0.40 to 0.63 0.50 to 0.55" in text
    assert text.count("95th pct. 66.0 % – – –") == len(EDGES) - 1
    assert '<figure id="crosscoder-agreement"' in html
    assert "No κ where one of the methods has one word only" in text
    section = re.search(r'<section id="crosscoder".*?</section>', html, re.DOTALL)
    assert section
    assert "<b>75\u00a0%</b>" in section[0]  # where both methods would say the same
    assert len(re.findall(r'<figure id="crosscoder-norms-\d"', section[0])) == len(EDGES)


def test_without_any_kappa_agreement_is_not_drawn(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "run")
    for name, table in crosscoder_tables().items():
        run.write_table(name, table)
    run.write_table(
        "crosscoder_edges", run.table("crosscoder_edges").with_columns(kappa=pl.lit(None, pl.Float64))
    )
    assert '<figure id="crosscoder-agreement"' not in feature_page.draw(run)


def test_a_decoder_is_divided_between_the_two_ends() -> None:
    norms = [{"a": 1.0, "b": 1.0, "c": 0.1}, {"a": 1.0, "b": 0.0, "c": 1.0}, {"a": 0.0, "b": 0.0, "c": 1.0}]
    table = pl.DataFrame({"relative_norm": norms})
    counts = crosscoder_figures.divided(table, "a", "b")
    assert counts["latents"].sum() == 3
    assert counts.filter(pl.col("low") == 0)["latents"].item() == 1  # a alone
    assert counts.filter(pl.col("low") == 0.5)["latents"].item() == 2  # both alike, or neither
    assert crosscoder_figures.divided(table, "b", "a").filter(pl.col("high") == 1)["latents"].item() == 1
    plot = crosscoder_figures.norm_histogram(counts, "a", "<b>", (0.2, 0.8))
    assert [round(shape["x0"], 3) for shape in plot["layout"]["shapes"]] == [0.167, 0.444, 0.556, 0.833]
    assert plot["layout"]["annotations"][2]["text"] == "&lt;b&gt; only"
