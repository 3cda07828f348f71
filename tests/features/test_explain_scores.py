import polars as pl
import pytest

from heredity.features.explain import explanations_summary


def test_summary_counts_what_beats_its_null():
    table = pl.DataFrame(
        {
            "member": ["base"] * 4, "seed": [0] * 4, "latent": [0, 1, 2, 3], "explainer": ["rules"] * 4,
            "rule": ["a", "b", "c", None], "score": [0.9, 0.5, 0.1, None], "null_score": [0.0, 0.1, 0.2, None],
            "null_best": [0.3, 0.6, 0.4, None], "n_nulls": [3, 3, 3, 0], "n_contexts": [8] * 4,
            "failed": [None, None, None, "never fires"], "calls": [1, 2, 3, 4], "prompt_tokens": [10] * 4,
            "completion_tokens": [5] * 4,
        }
    )  # fmt: skip
    row = explanations_summary(table).row(0, named=True)
    assert (row["latents"], row["explained"], row["failed"]) == (4, 3, 1)
    assert row["score"] == pytest.approx(0.5)
    assert row["score_median"] == pytest.approx(0.5)
    assert row["null_score"] == pytest.approx(0.1)
    assert row["above_null"] == pytest.approx(2 / 3)
    assert row["above_every_null"] == pytest.approx(1 / 3)
    assert row["above_by_chance"] == pytest.approx(1 / 4)
    assert (row["calls"], row["prompt_tokens"], row["completion_tokens"]) == (10, 40, 20)
