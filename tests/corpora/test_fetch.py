"""Archives come from the index that pip would use, land whole, and are known by their digest."""

import base64
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from heredity.corpora import fetch as fetch_module
from heredity.corpora.fetch import cache_folder, fetch, index_url
from heredity.errors import ConfigError, CorpusError

NAME = "some_package-1.0.tar.gz"
DATA = b"the archive's bytes" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Index:
    """A package index on this machine that counts what it is asked for."""

    def __init__(self) -> None:
        self.data, self.status, self.short = DATA, 200, 0
        self.files_url = ""  # of another server, for links that lead away
        self.asked: list[tuple[str, str | None]] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append((self.path, self.headers.get("Authorization")))
                body, kind = index.answer(self.path)
                self.send_response(index.status if body else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) - index.short] if self.path.startswith("/files") else body)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, path: str) -> tuple[bytes, str]:
        if path == f"/files/{NAME}":
            return self.data, "application/octet-stream"
        if path == "/simple/some-package/":
            link = f'<a href="{self.files_url}/files/{NAME}">{NAME}</a>'
            return f"<!DOCTYPE html><html><body>{link}</body></html>".encode(), "text/html"
        return b"", "text/plain"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    made = Index()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("PIP_INDEX_URL", f"{made.url}/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield made
    made.close()


def archives(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "archives").iterdir())


def test_downloads_once_then_needs_no_network(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(NAME, SHA256)
    assert path == cache / "archives" / NAME
    assert path.read_bytes() == DATA
    asked = len(index.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(NAME, SHA256.upper()) == path
    assert len(index.asked) == asked == 2
    assert archives(cache) == [NAME]


def test_a_wrong_digest_from_the_index_leaves_nothing(index: Index, cache: Path) -> None:
    index.data = b"something else"
    with pytest.raises(CorpusError, match=f"sha256 is [0-9a-f]{{64}}, pinned is {SHA256}") as caught:
        fetch(NAME, SHA256)
    assert "index" in caught.value.hint
    assert archives(cache) == []


def test_a_wrong_digest_in_the_cache_is_an_error_not_a_download(index: Index, cache: Path) -> None:
    (cache / "archives" / NAME).write_bytes(b"changed")
    with pytest.raises(CorpusError, match="pinned is") as caught:
        fetch(NAME, SHA256)
    assert "delete the file" in caught.value.hint
    assert not index.asked


def test_a_cut_connection_leaves_nothing(index: Index, cache: Path) -> None:
    index.short = 1000
    with pytest.raises(CorpusError, match=r"cannot be fetched from|pinned is"):
        fetch(NAME, SHA256)
    assert archives(cache) == []


@pytest.mark.parametrize(
    ("status", "message"), [(404, "no project"), (403, "HTTP status 403"), (500, "HTTP status 500")]
)
def test_what_the_index_answers_is_said(index: Index, status: int, message: str) -> None:
    index.status = status
    with pytest.raises(CorpusError, match=message):
        fetch(NAME, SHA256)


def test_a_file_that_the_index_does_not_list(index: Index) -> None:
    with pytest.raises(CorpusError, match="does not list it"):
        fetch("some_package-2.0.tar.gz", SHA256)


def test_offline_without_the_file_says_so_without_a_request(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CorpusError, match="not in the cache, and HF_HUB_OFFLINE forbids") as caught:
        fetch(NAME, SHA256)
    assert str(cache / "archives") in caught.value.hint
    assert not index.asked


def test_an_index_that_is_not_there(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(CorpusError, match="cannot be fetched from 127") as caught:
        fetch(NAME, SHA256)
    assert "secret" not in caught.value.message + caught.value.hint


def test_credentials_reach_the_index_alone_and_no_message(
    index: Index, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Index()
    try:
        index.files_url = elsewhere.url
        monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//user:se%40cret@") + "/simple")
        fetch(NAME, SHA256)
        expected = "Basic " + base64.b64encode(b"user:se@cret").decode()
        assert [sent for _, sent in index.asked] == [expected]
        assert [sent for _, sent in elsewhere.asked] == [None]
        index.status = 401
        with pytest.raises(CorpusError, match="HTTP status 401") as caught:
            fetch("some_package-3.0.tar.gz", SHA256)
        shown = "".join(capfd.readouterr()) + caught.value.message + caught.value.hint
        assert "cret" not in shown
    finally:
        elsewhere.close()


@pytest.mark.parametrize("name", ["", "../x-1.0.tar.gz", "a/x-1.0.tar.gz", ".x-1.0.tar.gz"])
def test_only_a_bare_file_name_is_fetched(name: str) -> None:
    with pytest.raises(ConfigError, match="not the file name of an archive"):
        fetch(name, SHA256)


def test_a_name_that_no_package_has(index: Index) -> None:
    with pytest.raises(ConfigError, match="not the file name of a wheel or source archive"):
        fetch("archive.rar", SHA256)
    assert not index.asked


def test_the_cache_follows_its_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEREDITY_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("HEREDITY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "heredity"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "heredity"


def test_the_index_is_pips_own_where_no_variable_names_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    configured = tmp_path / "pip.conf"
    configured.write_text("[global]\nindex-url = https://index.example/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configured))
    assert index_url() == "https://index.example/simple"
    monkeypatch.setattr(fetch_module.sys, "executable", str(tmp_path / "no-python"))
    assert index_url() is None
    monkeypatch.setenv("PIP_INDEX_URL", " https://other.example/simple ")
    assert index_url() == "https://other.example/simple"
