"""Each finding is a sentence of its table's numbers; what was not measured is not said."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from feature_pico import config

from heredity.run import Run
from heredity.studies.features import identity_findings
from heredity.studies.features import lineage_findings as lineage
from heredity.studies.features import meaning_findings as meaning
from heredity.studies.features.findings import _quality, findings

EDGES = (("base", "lua"), ("base", "verse"))
NOTHING = pl.DataFrame()


def edges(**changes: Any) -> pl.DataFrame:
    row = {
        "tau": 0.8, "persist": 0.3, "floor": 0.001, "ceiling": 0.36, "ceiling_parent": 0.35, "heritability": 0.83,
        "heritability_low": 0.8, "heritability_high": 0.86, "disappear": 0.62, "undecided": 0.08,
        "n_parent": 900.0, "rare_parent": 100.0,
    }  # fmt: skip
    return pl.DataFrame([{"parent": a, "child": b, **row, **changes} for a, b in EDGES])


def agreed() -> pl.DataFrame:
    row = {
        "found": 0.42, "floor": 0.002, "heritability": 0.66, "heritability_low": 0.59, "heritability_high": 0.72,
        "vanish": 0.45, "undecided": 0.08,
    }  # fmt: skip
    return pl.DataFrame([{"parent": a, "child": b, **row} for a, b in EDGES])


def test_what_is_lost_is_what_disappears() -> None:
    (alone,) = lineage.lost(edges(), NOTHING)
    assert alone.startswith(
        "Of a parent's latents that can be judged (10% of those that fire do so too rarely), on average"
    )
    assert "62% disappear in the child and 8% are undecided" in alone
    assert "64% have no match either: most of what looks lost is the SAE's choice" in alone
    (beside,) = lineage.lost(edges(), agreed())
    assert beside.endswith("Of the features that most seeds agree on, 45% vanish and 8% are undecided.")
    (none,) = lineage.lost(edges(), agreed().with_columns(vanish=pl.lit(None, pl.Float64)))
    assert none == alone  # seeds that agree on nothing
    (kept,) = lineage.lost(edges(ceiling=0.9, rare_parent=0.0), NOTHING)
    assert "rarely" not in kept
    assert kept.endswith("against 10% without a match in a second SAE of the same model.")


def test_an_edge_without_a_ratio_says_why() -> None:
    without = edges(heritability=None, heritability_low=None, heritability_high=None)
    assert all("no heritability can be given" in text for text in lineage.edges(without))
    assert "share 36.0%; no heritability can be given" in lineage.edges(without)[0]
    assert "which makes a heritability of 0.83 [0.80, 0.86]" in lineage.edges(edges())[0]


def test_an_edge_between_unequal_l0_is_to_be_read_with_care() -> None:
    assert "with care" not in lineage.edges(edges(l0_parent=32.0, l0_child=38.0))[0]
    (said, *_) = lineage.edges(edges(l0_parent=32.0, l0_child=41.5))
    assert said.endswith("To be read with care: L0 is 32.0 in base and 41.5 in lua.")


def test_shares_between_seeds_and_what_is_kept_in_place() -> None:
    assert "at r ≥ 0.80 in an SAE of another seed: by chance" in lineage.edges(edges(), shared_start=True)[0]
    rows = [
        ("base", "lua", "base", True, 0.60, 0.001, 0.80), ("lua", "both", "lua", True, 0.70, 0.002, 0.90),
        ("bible", "both", "base", False, 0.30, 0.003, None), ("base", "both", "base", False, 0.20, 0.004, None),
    ]  # fmt: skip
    columns = ("parent", "child", "through", "direct", "kept", "kept_null", "kept_control")
    table = pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        tau=pl.lit(0.8), r_median=pl.col("kept"), r_median_null=pl.lit(-0.02), cosine_median=pl.lit(0.9),
        cosine_median_null=pl.lit(-0.001),
    )  # fmt: skip
    direct, distant, spread = identity_findings.sentences(table)
    assert "base → lua 60.0% (80.0%), lua → both 70.0% (90.0%); in brackets" in direct
    assert "at most 0.2%" in direct
    assert "bible → both 30.0% (both from base), base → both 20.0% (by way of others)" in distant
    assert "median r is 0.20 to 0.70" in spread
    assert "of strangers −0.02 and 0.00" in spread
    assert identity_findings.sentences(NOTHING) == []


def test_consensus_stands_between_its_floor_and_ceiling() -> None:
    members = pl.DataFrame([
        {"member": name, "held_out": out, "n_seeds": 3, "share_of_latents": share, "found": 0.6 + share}
        for name, share in (("base", 0.2), ("lua", 0.257))
        for out in (None, 0)
    ])  # fmt: skip
    what, found = lineage.consensus(members, agreed(), edges())
    assert what == (
        "What most of a member's 3 seeds agree on takes in 20.0 to 25.7% of its latents; a seed left out finds "
        "80 to 86% of these features again."
    )
    assert "where chance gives at most 0.2%" in found
    assert "base → lua 42%, heritability 0.66 [0.59, 0.72] (of all latents 0.83); base → verse" in found
    assert lineage.consensus(members.clear(), agreed().clear(), edges()) == []


def test_matchings_are_told_by_their_ceilings() -> None:
    rows = [
        {"matching": name, "tau": tau, "persist": share, "ceiling": 2 * share, "fdr_high": high}
        for name, share, high in (("best", 0.3, 0.004), ("mutual", 0.1, 0.1), ("hungarian", 0.2, 0.02))
        for tau in (0.7, 0.8)
    ]
    (text,) = lineage.matchings(pl.DataFrame(rows), 0.8)
    assert (
        "best partner 30.0% (50% of the ceiling), mutual best partners 10.0% (50% of the ceiling), one to one"
        in text
    )
    assert text.endswith("At most 0.40% of the best matches are what chance would give.")
    one_seed = pl.DataFrame(rows).with_columns(ceiling=pl.lit(None, pl.Float64))
    assert lineage.matchings(one_seed, 0.8) == []


def test_the_released_codes_rule_is_told_with_its_null() -> None:
    rows = [
        {"codes": codes, "tau": 0.8, "persist": share, "ours": ours}
        for codes, share, ours in (
            ("observed", 0.988, 0.27), ("observed", 0.998, 0.3), ("shifted", 0.44, 0.0), ("shifted", 0.76, 0.0),
        )
    ]  # fmt: skip
    (text,) = lineage.historical(pl.DataFrame(rows))
    assert (
        "98.8 to 99.8% of a parent's latents would persist, and still 44.0 to 76.0% with the child shifted"
        in text
    )
    assert text.endswith("27.0 to 30.0% and 0.0%.")


@pytest.mark.parametrize(
    ("dead", "said"),
    [
        (0.0, "95% of the loss. Every latent fires on it."),
        (0.004, "Up to 0.4% of an SAE's latents never fire"),
        (0.0004, "Less than 0.1% of an SAE's latents never fire"),
    ],
)
def test_quality_is_told_with_both_goals(dead: float, said: str) -> None:
    row = {"variant": "topk", "fvu": 0.05, "ce_recovered": 0.97, "dead_share": dead, "l0": 8.0}
    (text,) = _quality(pl.DataFrame([row]))
    assert "within the goal of FVU ≤ 0.10 and 95% of the loss" in text
    assert said in text


def test_removal_is_told_by_kind_and_beside_strangers() -> None:
    table = pl.DataFrame([
        {"kind": kind, "domain": domain, "loss_change": cost, "n_latents": n}
        for kind, cost, n in (("persists", 0.06, 500), ("disappears", 0.08, 1000), ("latent", 9.0, 1))
        for domain in ("lua", "all")
    ])  # fmt: skip
    alike = pl.DataFrame([
        {"domain": "all", "effect": "loss_change", "spearman": r, "null": 0.0, "p": p}
        for r, p in ((0.48, 0.01), (0.2, 0.2), (None, None))
    ])  # fmt: skip
    sets, pairs = meaning.ablation(table, alike)
    assert (
        "all that persists 0.060 nats per token (500 latents, 0.12 for a thousand), all that disappears 0.080"
        in sets
    )
    assert "9.0" not in sets
    (saved, *_) = meaning.ablation(table.with_columns(pl.col("loss_change") * -0.001), alike)
    assert "all that persists 0.000 nats per token (500 latents, 0.00 for a thousand)" in saved
    assert pairs.startswith(
        "On 1 of 2 edges the two latents of a pair that persists change the loss more alike"
    )
    assert pairs.endswith("(p ≤ 0.05): Spearman 0.20 to 0.48 against 0.00.")


def test_explanations_weigh_members_by_their_latents() -> None:
    summary = pl.DataFrame([
        {
            "explainer": "rules", "explained": n, "score": score, "null_score": -0.001, "above_every_null": 1.0,
            "above_by_chance": 1 / 11,
        }
        for n, score in ((300, 0.6), (100, 0.8), (0, None))
    ])  # fmt: skip
    (text,) = meaning.words(summary)
    assert text.startswith("The explanations by rules of 400 latents score 0.65 on average")
    assert "those of other latents 0.00; 100% are better than every random one, where chance gives 9%" in text


def test_effects_count_what_was_measured_only() -> None:
    rows = [
        {"measured": value, "measured_null": 0.0, "measured_null_high": high}
        for value, high in ((0.9, 0.3), (0.1, 0.3), (None, 0.3), (0.9, None))
    ]
    (text,) = meaning.effects(pl.DataFrame(rows))
    assert text.startswith("Taken out where they fire most, 2 features")
    assert "0.50 on average" in text
    assert "50% of the features are above" in text


@pytest.mark.parametrize("say", [lineage.historical, meaning.words, meaning.effects])
def test_no_table_no_sentence(say: Any) -> None:
    assert say(NOTHING) == []


def test_a_run_with_the_first_tables_only_has_its_findings(tmp_path: Path) -> None:
    settings = config()
    run = Run.open(tmp_path / "run", command="track", config={}, seed=0)
    saes = {"variant": ["topk"], "fvu": [0.05], "l0": [32.0], "ce_recovered": [0.97], "dead_share": [0.31]}
    parts = {"kind": ["both", "left only", "right only", "neither"], "share": [0.2, 0.1, 0.1, 0.6]}
    run.write_table("saes", pl.DataFrame(saes))
    run.write_table("edges", pl.concat([edges(), edges(tau=0.5)]))
    run.write_table("inheritance", pl.DataFrame(parts).with_columns(
        merge=pl.lit("lua-verse"), left=pl.lit("lua"), right=pl.lit("verse"), floor=pl.lit(0.001), ceiling=pl.lit(0.35),
    ))  # fmt: skip
    run.write_table("universal", pl.DataFrame({"index": [0, 0, 1]}))
    run.write_table("latents", pl.DataFrame({
        "member": ["base"] * 12, "seed": [0] * 11 + [1], "firings": [0, 9, *([100] * 10)],
        "rare": [False, True, *([False] * 10)],
    }))  # fmt: skip
    told = findings(run, _Family(settings))  # type: ignore[arg-type]
    assert told.columns == ["order", "text", "section"]
    assert told["section"].to_list() == [
        "saes", "persistence", "persistence", "persistence", "inheritance", "features", "limits",
    ]  # fmt: skip
    assert "31.0% of an SAE's latents never fire" in told["text"][0]
    assert "2 features of base's first SAE are matched in all 4 members: 22.2% of those" in told["text"][5]


class _Family:
    """Settings that are no demo's: no losses of children to compare."""

    def __init__(self, settings: Any) -> None:
        self.sae, self.lineage, self.members, self.root = (
            settings.sae, settings.lineage, settings.members, settings.root,
        )  # fmt: skip
