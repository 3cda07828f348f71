"""Digests name their algorithm; a file is read once for each, and compared by what both sides know."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from heredity import digests
from heredity.digests import digest_of, known_digest, known_sha256, remember, sha256_of, state
from heredity.errors import CheckpointError

DATA = b"weights" * 1000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    return path


def test_what_is_read_is_hashed_with_blake3(file: Path) -> None:
    assert known_digest(file) is None
    assert digest_of(file) == f"blake3:{blake3(DATA).hexdigest()}" == known_digest(file)
    assert known_sha256(file) is None
    assert sha256_of(file) == hashlib.sha256(DATA).hexdigest() == known_sha256(file)
    assert digest_of(file, "sha256") == f"sha256:{sha256_of(file)}"
    assert digest_of(file).startswith("blake3:")  # both are known: ours


def test_the_hub_cache_names_its_sha256(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / hashlib.sha256(DATA).hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(DATA)
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert digest_of(link) == f"sha256:{blob.name}" == state(link).digest
    assert digest_of(link, "blake3") == f"blake3:{blake3(DATA).hexdigest()}"


def test_a_file_that_changed_is_read_again(file: Path) -> None:
    before = digest_of(file)
    file.write_bytes(DATA[:-1])
    assert digest_of(file) == f"blake3:{blake3(DATA[:-1]).hexdigest()}" != before


def test_lines_that_name_no_algorithm_count_for_nothing(file: Path) -> None:
    cache = digests.cache_folder() / "digests.jsonl"
    remember(file, hashlib.sha256(b"other").hexdigest())
    with cache.open("a") as lines:
        lines.write('["cut short')
    assert known_digest(file) is None
    with cache.open("a") as lines:
        lines.write("\n")
    assert digest_of(file) == f"blake3:{blake3(DATA).hexdigest()}"
    assert json.loads(cache.read_text().splitlines()[-1])[1] == known_digest(file)


def test_states_are_compared_by_one_algorithm_or_by_time(file: Path) -> None:
    known = replace(state(file), digest="blake3:aa")
    touched = replace(known, mtime_ns=1)
    assert known.same_as(touched)
    assert not known.same_as(replace(touched, digest="blake3:bb"))
    assert not known.same_as(replace(touched, digest="sha256:aa"))
    assert known.same_as(replace(known, digest="sha256:aa"))
    assert known.same_as(replace(known, digest=""))
    assert not known.same_as(replace(known, nbytes=1))


def test_an_algorithm_that_is_not_known_is_named(file: Path) -> None:
    with pytest.raises(CheckpointError, match="'md5', which is not known"):
        digest_of(file, "md5")
