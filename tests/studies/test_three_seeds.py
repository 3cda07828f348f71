"""The study with three SAEs per member, from text to page: what most of them find, and what became of that."""

import numpy as np
import polars as pl
import pytest
from feature_pico import config, write_text

pytest.importorskip("torch")

from heredity.features.sae import load
from heredity.run import Run
from heredity.studies.features.config import StudyConfig, plain, with_values
from heredity.studies.features.study import study

SEEDS = 3


@pytest.fixture(scope="module")
def settings() -> StudyConfig:
    return with_values(config(explain=0), (f"sae.seeds={SEEDS}", "sae.tokens=20000", "lineage.tau=0.6"))


@pytest.fixture(scope="module")
def run(settings: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("three")
    write_text(root)
    made = Run.open(root / "run", command="demo", config=plain(settings), seed=0)
    assert study(made, settings, root=root)
    return made


def test_every_member_has_a_consensus_from_its_own_seeds(run: Run, settings: StudyConfig) -> None:
    whole = run.table("consensus").filter(pl.col("held_out").is_null())
    assert whole["member"].to_list() == list(settings.members)
    assert whole["n_seeds"].to_list() == [SEEDS] * 4
    assert whole["needed"].to_list() == [2] * 4
    assert whole["n_features"].min() > 0  # type: ignore[operator]
    left_out = run.table("consensus").filter(pl.col("held_out").is_not_null())
    assert left_out.group_by("member").len()["len"].to_list() == [SEEDS] * 4
    latents = run.table("consensus_latents")
    count = latents.group_by("member", "feature").agg(
        pl.len().alias("n"), pl.col("seed").n_unique().alias("seeds"), pl.col("medoid").sum().alias("medoids")
    )
    assert (count["n"] == count["seeds"]).all()
    assert count["n"].is_between(2, SEEDS).all()
    assert (count["medoids"] == 1).all()
    per_member = count.group_by("member").len().sort("member")
    assert per_member["len"].to_list() == whole.sort("member")["n_features"].to_list()


def test_every_edge_has_its_floor_and_its_ceiling_from_a_seed_left_out(run: Run) -> None:
    edges, plain_edges = run.table("consensus_edges"), run.table("edges")
    assert edges.select("parent", "child").equals(plain_edges.select("parent", "child"))
    assert (edges["floor"] < edges["ceiling"]).all()
    # What two seeds agree on is found again more often than what one SAE says.
    assert (edges["ceiling"] > plain_edges["ceiling"]).all()
    fate = edges["persist"] + edges["vanish"] + edges["undecided"]
    np.testing.assert_allclose(fate, 1)
    again = edges["persist_child"] + edges["emerge"] + edges["emerge_undecided"]
    np.testing.assert_allclose(again, 1)


def test_the_consensus_is_saved_as_an_sae_of_real_latents(run: Run) -> None:
    latents = run.table("consensus_latents").filter(member="base").filter(pl.col("medoid")).sort("feature")
    made = load(run.path / "saes" / "base-consensus")
    assert made.d_sae == latents.height
    row = latents.row(0, named=True)
    own = load(run.path / "saes" / f"base-topk-{row['seed']}")
    np.testing.assert_array_equal(made.W_dec[0], own.W_dec[row["latent"]])


def test_the_page_and_the_findings_speak_of_the_consensus(run: Run) -> None:
    assert any("most" in text and "seeds" in text for text in run.table("findings")["text"])
    page = (run.path / "report.html").read_text()
    assert "consensus" in page.lower()
    assert not any("consensus features need" in text for text in run.table("warnings")["text"])
