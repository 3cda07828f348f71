"""Shared by all tests: shapes of annotations are checked in the weight side; pico families."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

with install_import_hook(["heredity.gram", "heredity.lowrank", "heredity.point"], "beartype.beartype"):
    import heredity.gram
    import heredity.lowrank
    import heredity.point  # noqa: F401

from pico import PicoFamily, make_family


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep remembered hashes of test files out of the user's cache."""
    monkeypatch.setattr("heredity.digests.cache_folder", lambda: tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture
def pico_family(tmp_path: Path) -> Callable[..., PicoFamily]:
    """Return a function that writes a family into a new folder: see `pico.make_family`."""
    count = iter(range(1000))

    def make(**options: Any) -> PicoFamily:
        return make_family(tmp_path / f"family{next(count)}", **options)

    return make
