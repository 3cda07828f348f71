"""Latents kept in place stand beside strangers and the control; warnings on shares stand beside the shares."""

from pathlib import Path

import polars as pl
import pytest
from made_up import made_up_run
from test_feature_sections import text_of

from heredity.report import feature_page
from heredity.run import Run

UNEVEN = "base → lua: L0 31.0 (base seed 0) and 44.0 (lua seed 1) differ by more than 20 %, compare with care"
MEASURES = ("kept", "r_median", "cosine_median", "best_at_index")


@pytest.fixture
def made(tmp_path: Path) -> Run:
    run = made_up_run(tmp_path / "run")
    rows = [("base", "lua", seed, "base", True, 0.61 + 0.02 * seed, 0.0012, 0.88) for seed in (0, 1)] + [
        ("bible", "lua-bible", seed, "base", False, 0.31, 0.0012, None) for seed in (0, 1)
    ]
    names = ("parent", "child", "seed", "through", "direct", "kept", "kept_null", "kept_control")
    table = pl.DataFrame(rows, schema=names, orient="row").with_columns(
        tau=pl.lit(0.8), n_parent=pl.lit(500), silent=pl.lit(0.013), kept_low=pl.col("kept") - 0.03,
        kept_high=pl.col("kept") + 0.03,
    )  # fmt: skip
    for name in MEASURES:
        for end in ("", "_null", "_null_p95", "_control"):
            if f"{name}{end}" not in table.columns:
                table = table.with_columns(
                    pl.col(f"kept{end}" if end != "_null_p95" else "kept_null").alias(f"{name}{end}")
                )
    run.write_table("identity", table)
    return run


def test_what_is_kept_stands_beside_strangers_and_the_control(made: Run) -> None:
    text = text_of(feature_page.draw(made), "identity")
    assert "base → lua 62.0 % 58.0 to 66.0 % 0.12 % 95th pct. 0.12 % 88.0 %" in text
    assert "both from base 31.0 %" in text
    assert "The SAEs of lua-bible did not begin at those of bible" in text
    assert "it is no evidence that the model passed anything on" in text


def test_without_shared_starts_there_is_no_such_section(tmp_path: Path) -> None:
    assert 'id="identity"' not in feature_page.draw(made_up_run(tmp_path / "run"))


def test_unequal_l0_is_said_beside_the_shares(made: Run) -> None:
    made.write_table(
        "warnings",
        pl.DataFrame({"text": [UNEVEN, "plays has 2 documents"], "section": ["persistence", None]}),
    )
    html = feature_page.draw(made)
    assert f"{UNEVEN}." in text_of(html, "persistence")
    assert "plays has 2 documents" not in text_of(html, "persistence")
    limits = text_of(html, "limits")
    assert "1 warning stands beside the shares that it is about." in limits
    assert "plays has 2 documents." in limits
    assert UNEVEN not in limits


def test_saes_of_another_kind_are_called_by_their_name(tmp_path: Path) -> None:
    config = {"name": "made-up", "sae": {"variant": "jumprelu", "init": "parent"}}
    whole = made_up_run(tmp_path / "made")
    run = Run.open(tmp_path / "run", command="demo", config=config, seed=0)
    for file in (whole.path / "tables").glob("*.parquet"):
        run.write_table(file.stem, pl.read_parquet(file))
    saes = run.table("saes").with_columns(pl.col("variant").replace({"topk": "jumprelu"}), fvu=pl.lit(0.5))
    run.write_table(
        "saes",
        pl.concat([saes, saes.filter(variant="jumprelu").with_columns(variant=pl.lit("jumprelu-again"))]),
    )
    run.write_table("sae_curve", run.table("sae_curve").clear())
    html = feature_page.draw(run)
    text = text_of(html, "saes")
    n = saes.filter(variant="jumprelu").height
    assert f"{n} of the {n} JumpReLU SAEs miss the aim" in text
    assert "only a TopK SAE can be evaluated at another k" in text
    assert "l1: for comparison only" in text
    assert "jumprelu-again: finished SAEs trained once more" in text
    assert "Not made yet" not in text
    assert "mean over pairs of different seeds" in text_of(html, "persistence")
