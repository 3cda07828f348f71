"""What a study will need, known before it begins: sizes of presets, and disks that are too small."""

import json
from pathlib import Path

import pytest
from feature_pico import config, write_text

pytest.importorskip("torch")

from heredity.cli._main import run
from heredity.errors import DiskFullError
from heredity.run import Run
from heredity.studies.features.config import plain, with_values
from heredity.studies.features.sizes import Held, Sizes, of_study
from heredity.tomlfile import to_toml

D, LATENTS, MEMBERS, SEEDS, DOMAINS = 48, 96, 4, 2, 4


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    """Set what the disk has left."""

    def to(count: int) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": count}))

    return to


def sizes(*held: Held) -> Sizes:
    return Sizes(
        members=1, edges=0, d=1, train_tokens=1, shared_tokens=1, saes=1, harvest_flops=0.0, train_flops=0.0,
        firing_pairs=0.0, crosscoder=0, held=held,
    )  # fmt: skip


def test_sizes_of_a_study_are_those_of_its_settings() -> None:
    found = of_study(config())
    assert (found.members, found.edges, found.d, found.saes) == (MEMBERS, 4, D, MEMBERS * SEEDS + 1)
    held = found.disk_bytes
    assert held["activations to train on"] == MEMBERS * 2000 * DOMAINS * D * 2
    assert held["activations to compare on"] == 2000 * DOMAINS * D * 2
    assert held["SAEs"] == found.saes * 4 * (2 * D * LATENTS + LATENTS + D)
    train, compare = (
        sum(one.bytes for one in found.held if phase in one.phases) for phase in ("train", "compare")
    )
    assert found.bytes == max(train, compare) < sum(held.values())
    assert found.train_flops == 2 * D * LATENTS * 30_000 * found.saes


def test_what_a_run_has_already_is_not_asked_for_again(tmp_path: Path, free) -> None:
    made = sizes(Held("SAEs", "saes", 1000, "saes"), Held("codes", "codes", 500, "lineage"))
    free(1499)
    with pytest.raises(DiskFullError, match="needs about 1,500 bytes, 1,499 are free"):
        made.check(tmp_path / "new")
    out = Run.open(tmp_path / "old", command="track", config={}, seed=0)
    out.folder("saes").mkdir()
    (out.folder("saes") / "one").write_bytes(bytes(400))
    free(1099)
    with pytest.raises(DiskFullError, match="needs about 1,100"):
        made.check(out.path)
    out.finish_stage("saes")
    free(500)
    made.check(out.path)


def test_a_phase_that_is_over_does_not_count(tmp_path: Path, free) -> None:
    made = sizes(
        Held("activations", "activations", 900, "saes", ("train",)),
        Held("codes", "codes", 500, "lineage", ("compare",)),
    )
    free(900)
    made.check(tmp_path)
    free(899)
    with pytest.raises(DiskFullError, match="needs about 900"):
        made.check(tmp_path)
    Run.open(tmp_path / "run", command="track", config={}, seed=0).finish_stage("saes")
    free(500)
    made.check(tmp_path / "run")


def test_the_demo_checks_the_disk_before_it_starts_and_when_it_goes_on(
    tmp_path: Path, free, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path, documents=1, words=5)
    study, out = tmp_path / "study.toml", tmp_path / "out"
    study.write_text(to_toml(plain(config())))
    command = ["demo", "--config", str(study), "-o", str(out), "-q"]
    free(10_000)
    assert run(command) == 1
    assert "bytes, 10,000 are free" in capsys.readouterr().err
    assert not out.exists()
    Run.open(out, command="demo", config=plain(config()), seed=0).finish_stage("text")
    assert run(command) == 1  # goes on by itself, and still has no room
    assert "bytes, 10,000 are free" in capsys.readouterr().err


def test_a_dry_run_of_the_demo_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(["demo", "--preset", "wide", "--dry-run", "--json", "-o", str(out)]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["d"], made["latents"], made["members"]) == (1024, 16384, 4)
    assert made["bytes"] < sum(made["disk_bytes"].values())
    assert not out.exists()


def test_codes_and_consensus_saes_are_counted() -> None:
    """Each firing stands by token and by latent, each token has its start; three seeds leave a consensus."""
    held = of_study(config()).disk_bytes
    assert held["codes"] == MEMBERS * SEEDS * 2000 * DOMAINS * (14 * config().sae.k + 8)
    assert "consensus SAEs" not in held
    three = of_study(with_values(config(), ["sae.seeds=3"])).disk_bytes
    assert three["consensus SAEs"] == MEMBERS * 4 * (2 * D * LATENTS + LATENTS + D)


def test_a_model_whose_sizes_do_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    heads = "base.model.num_attention_heads=3"
    assert run(["demo", "--preset", "small", "--set", heads, "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert "'mistral' of these sizes cannot run" in said
    assert "num_attention_heads" in said
    assert not out.exists()
