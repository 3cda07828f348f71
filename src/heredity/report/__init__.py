"""Draw a run on one offline HTML page, from its tables alone.

    from heredity.report import write_report
    write_report(run)  # RUN/report.html, drawn by the page that claims the run's command

A page is a module `NAME_page.py` here with `COMMANDS` (the commands of run.json that it draws) and
`draw(run) -> str` (the whole HTML). Pages are found, not listed.
"""

from heredity.report.page import write_report

__all__ = ["write_report"]
