"""A cache of its own for every test, archives in it, and a tokenizer."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from made_corpora import corpus, tar_bytes, zip_bytes

from heredity.corpora.tokenizer import train_tokenizer

Pack = Callable[[str, Mapping[str, bytes]], str]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network: a test that wants either says so."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HEREDITY_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (folder / "archives").mkdir(parents=True)
    return folder


@pytest.fixture
def pack(cache: Path) -> Pack:
    """Put an archive into the cache and return its sha256."""

    def make(name: str, files: Mapping[str, bytes]) -> str:
        data = zip_bytes(files) if name.endswith((".zip", ".whl")) else tar_bytes(files)
        (cache / "archives" / name).write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    return make


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 400 tokens."""
    texts = (d.text for d in corpus(12))
    return train_tokenizer(texts, vocab_size=400, out=tmp_path_factory.mktemp("tokenizer") / "t")
