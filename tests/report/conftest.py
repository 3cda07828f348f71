"""A made-up run, drawn once for all tests of the page."""

from pathlib import Path

import pytest
from made_up import made_up_run

from heredity.report import write_report
from heredity.run import Run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with all tables, invented."""
    return made_up_run(tmp_path_factory.mktemp("made-up") / "run")


@pytest.fixture(scope="session")
def page(run: Run) -> Path:
    """Its page."""
    return write_report(run)
