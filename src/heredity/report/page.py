"""Find the page that draws a run, and write it."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from heredity.atomic import write_text
from heredity.errors import ConfigError
from heredity.run import Run


def write_report(run: Run, out: Path | None = None) -> Path:
    """Draw a run and write the page, whole or not at all.

    Args:
        run: a run folder; sections whose tables are not made yet say so.
        out: the HTML file; `report.html` in the run folder by default.

    Returns:
        The file that was written.

    Raises:
        ConfigError: no page draws the command that made the run.
    """
    module = page_for(str(run.record()["command"]))
    out = run.path / "report.html" if out is None else out
    beside = getattr(module, "beside", None)  # a page may load files of data that lie beside it
    if beside is not None:
        beside(run, out.parent)
    write_text(out, module.draw(run))
    return out


def page_for(command: str) -> ModuleType:
    """Return the page module that claims a command.

    Raises:
        ConfigError: none does.
    """
    known: list[str] = []
    for module in _pages():
        if command in module.COMMANDS:
            return module
        known += module.COMMANDS
    raise ConfigError(
        f"no page draws a run of '{command}'", f"a report is drawn for runs of: {', '.join(sorted(known))}"
    )


def _pages() -> Iterator[ModuleType]:
    from heredity import report

    for module in pkgutil.iter_modules(report.__path__):
        if module.name.endswith("_page"):
            yield importlib.import_module(f"heredity.report.{module.name}")
