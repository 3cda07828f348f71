"""`heredity report`: draw a run's page again from its tables."""

from pathlib import Path

import click

from heredity.cli import _options


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="The HTML file.  [default: RUN/report.html]"
)
@_options.as_json
def command(folder: Path, out: Path | None, as_json: bool) -> None:
    """Draw the page of a run folder from its tables, finished or not; nothing is computed anew."""
    from heredity.report import write_report
    from heredity.run import Run, read_record

    page = write_report(Run(folder, read_record(folder / "run.json")), out)
    _options.emit({"run": str(folder), "report": str(page)}, as_json=as_json, lines=[str(page)])
