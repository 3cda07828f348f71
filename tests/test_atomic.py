"""Files and folders appear whole or not at all."""

import errno
from pathlib import Path

import pytest

from heredity import atomic
from heredity.errors import DiskFullError


def test_a_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    with atomic.writing(target) as file:
        file.write(b"half")
        assert not target.exists()
    assert target.read_bytes() == b"half"
    assert [p.name for p in target.parent.iterdir()] == ["b.txt"]


def test_a_failure_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "b.txt"
    atomic.write_text(target, "old")

    def fail() -> None:
        with atomic.writing(target) as file:
            file.write(b"new")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    target = tmp_path / "b.txt"
    with pytest.raises(DiskFullError, match=r"b\.txt: the disk is full"), atomic.writing(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_really_full_device_is_named() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    from heredity.errors import naming_full_disk

    with pytest.raises(DiskFullError), naming_full_disk(full), full.open("wb") as file:
        file.write(b"x" * 100_000)


def test_a_folder_replaces_the_whole_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with atomic.replacing_folder(target) as folder:
        (folder / "stale.bin").write_bytes(b"1")
    with atomic.replacing_folder(target) as folder:
        (folder / "new.bin").write_bytes(b"2")
    assert [p.name for p in target.iterdir()] == ["new.bin"]

    def fail() -> None:
        with atomic.replacing_folder(target) as folder:
            (folder / "broken.bin").write_bytes(b"3")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [p.name for p in target.iterdir()] == ["new.bin"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_named_when_safetensors_meets_it(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    from heredity.errors import naming_full_disk

    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    with (
        pytest.raises(DiskFullError, match=r"a\.safetensors: the disk is full"),
        naming_full_disk(tmp_path / "a.safetensors"),
    ):
        raise SafetensorError(said)
    with pytest.raises(SafetensorError, match="header"), naming_full_disk(tmp_path / "a.safetensors"):
        raise SafetensorError("Error while deserializing header")
