"""Archives are read in memory; whatever could leave them, or explode, is refused."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from made_corpora import tar_bytes, zip_bytes

from heredity.corpora.archives import members
from heredity.errors import ConfigError, CorpusError

FILES = {"pkg-1.0/pkg/texts/a.txt": b"alpha", "pkg-1.0/pkg/texts/b.txt": b"beta", "pkg-1.0/pkg/b/c.txt": b"c"}


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["pkg-1.0.tar.gz", "pkg-1.0.zip", "pkg-1.0-py3-none-any.whl"])
def test_members_match_below_the_shared_top_folder(tmp_path: Path, name: str) -> None:
    data = tar_bytes(FILES) if name.endswith("gz") else zip_bytes(FILES)
    path = write(tmp_path, name, data)
    assert dict(members(path, "pkg/texts/*.txt")) == {"pkg/texts/a.txt": b"alpha", "pkg/texts/b.txt": b"beta"}
    assert len(dict(members(path, "**/*.txt"))) == 3
    assert not dict(members(path, "texts/*.txt"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", name]  # nothing was extracted


def test_an_archive_of_two_top_folders_is_matched_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "p.whl", zip_bytes({"pkg/a.lua": b"a", "pkg.dist-info/METADATA": b"m"}))
    assert dict(members(path, "pkg/*.lua")) == {"pkg/a.lua": b"a"}
    assert not dict(members(path, "*.lua"))


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "C:\\evil.txt", "..\\evil.txt"]
)
@pytest.mark.parametrize("kind", ["x.tar.gz", "x.zip"])
def test_a_path_that_leaves_the_archive_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    files = {"a/ok.txt": b"ok", name: b"evil"}
    path = write(tmp_path, kind, tar_bytes(files) if kind.endswith("gz") else zip_bytes(files))
    with pytest.raises(CorpusError, match="leads out of the archive"):
        list(members(path, "a/*.txt"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_that_matches_is_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("a/link.txt")
    info.type, info.linkname = kind, "/etc/passwd"
    path = write(tmp_path, "x.tar.gz", tar_bytes({"a/b/ok.txt": b"ok"}, (info,)))
    with pytest.raises(CorpusError, match=r"'a/link\.txt' is a link or a device"):
        list(members(path, "**/*.txt"))
    assert dict(members(path, "b/ok.txt")) == {"b/ok.txt": b"ok"}  # not asked for: not touched


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        info = zipfile.ZipInfo("a/link.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    path = write(tmp_path, "x.zip", buffer.getvalue())
    with pytest.raises(CorpusError, match="is a link or a device"):
        list(members(path, "**/*.txt"))


@pytest.mark.parametrize("kind", ["x.tar.gz", "x.zip"])
def test_a_bomb_stops_at_the_limit(tmp_path: Path, kind: str) -> None:
    files = {"a/zeros.txt": bytes(3 << 20)}
    path = write(tmp_path, kind, tar_bytes(files) if kind.endswith("gz") else zip_bytes(files))
    with pytest.raises(CorpusError, match="unpacks to more than 1,048,576 bytes"):
        list(members(path, "**/*.txt", limit_bytes=1 << 20))
    assert len(dict(members(path, "**/*.txt"))) == 1


def test_a_tar_bomb_in_a_member_that_does_not_match_stops_too(tmp_path: Path) -> None:
    path = write(tmp_path, "x.tar.gz", tar_bytes({"a/zeros.bin": bytes(3 << 20), "a/b.txt": b"b"}))
    with pytest.raises(CorpusError, match="unpacks to more"):
        list(members(path, "**/*.txt", limit_bytes=1 << 20))


@pytest.mark.parametrize("kind", ["x.tar.gz", "x.zip"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_archive_is_named(tmp_path: Path, kind: str, share: float) -> None:
    files = {f"a/{i}.txt": bytes(range(256)) * 40 + bytes([i]) for i in range(40)}
    data = tar_bytes(files) if kind.endswith("gz") else zip_bytes(files)
    path = write(tmp_path, kind, data[: int(len(data) * share)])
    with pytest.raises(CorpusError, match=r"x\.(tar\.gz|zip): cannot be read"):
        list(members(path, "**/*.txt"))


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"a/b.txt": b"some text " * 100}))
    data[60] ^= 0xFF
    path = write(tmp_path, "x.zip", bytes(data))
    with pytest.raises(CorpusError, match="cannot be read"):
        list(members(path, "**/*.txt"))


def test_another_kind_of_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.rar: not a kind of archive"):
        list(members(write(tmp_path, "x.rar", b""), "*"))
