"""`heredity report`: draw a run's page again from its tables."""

from pathlib import Path

import click

from heredity.cli import _options


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path),
    help="The HTML file.  [default: RUN/report.html; beside a merge, MERGE-report.html]",
)  # fmt: skip
@_options.as_json
def command(folder: Path, out: Path | None, as_json: bool) -> None:
    """Draw the page of a run folder from its tables, finished or not; nothing is computed anew.

    RUN may also be a folder that `heredity merge` wrote: what it did to every tensor is in its lock.
    """
    if (folder / "heredity.lock.json").is_file():
        from heredity.cli._merge_report import write_merge_report

        page = out or folder.absolute().with_name(f"{folder.absolute().name}-report.html")
        files = [str(file) for file in write_merge_report(folder, page)]
        values = {"merge": str(folder), "report": files[0], "table": files[1]}
        _options.emit(values, as_json=as_json, lines=files)
        return
    from heredity.report import write_report
    from heredity.run import Run, read_record

    page = write_report(
        Run(folder, read_record(folder / "run.json", "name the folder of a run, or of a merge")), out
    )
    _options.emit({"run": str(folder), "report": str(page)}, as_json=as_json, lines=[str(page)])
