"""The command line. One file per verb: `cli/NAME.py` with a `command`; files are found, not listed."""

from heredity.cli._main import main

__all__ = ["main"]
