"""A run as its sections see it: tables, the members in order, and one colour for each."""

from functools import cached_property
from typing import Any

import polars as pl

from heredity.report.palette import member_colours
from heredity.run import Run


class View:
    """Tables of a run with what all sections share.

    Attributes:
        run: the run folder.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def table(self, name: str) -> pl.DataFrame:
        """Read a table of the run."""
        return self.run.table(name)

    def has(self, *names: str) -> bool:
        """Say whether the run has all of these tables, each with at least one row."""
        return all(self.run.has_table(name) and self.run.table(name).height > 0 for name in names)

    @cached_property
    def record(self) -> dict[str, Any]:
        """What run.json holds."""
        return self.run.record()

    @cached_property
    def members(self) -> list[str]:
        """Names of the members, parents first; before the family is described, as other tables have them."""
        if self.has("members"):
            return list(self.table("members")["member"])
        for name in ("training", "losses", "saes"):
            if self.has(name):
                return list(self.table(name)["member"].unique(maintain_order=True))
        return []

    @cached_property
    def colours(self) -> dict[str, str]:
        """CSS variable of each member's colour."""
        return member_colours(self.members)

    @cached_property
    def parents(self) -> dict[str, list[str]]:
        """Parents of each member."""
        return (
            dict(self.table("members").select("member", "parents").iter_rows()) if self.has("members") else {}
        )

    @cached_property
    def domains(self) -> list[str]:
        """Names of the domains, in the order of the corpora."""
        for name in ("corpora", "losses"):
            if self.has(name):
                return list(self.table(name)["domain"].unique(maintain_order=True))
        return []

    @cached_property
    def tau(self) -> float:
        """The correlation at which two latents count as one feature."""
        return float(self.table("edges")["tau"][0]) if self.has("edges") else 0.80

    @cached_property
    def variant(self) -> str:
        """Kind of SAE whose features are followed, as tables call it."""
        return str(self.record["config"].get("sae", {}).get("variant", "topk"))

    @property
    def shared_start(self) -> bool:
        """Whether each child's SAEs began at its parent's."""
        return bool(self.record["config"].get("sae", {}).get("init") == "parent")

    def warnings(self, section: str | None = None) -> list[str]:
        """Return the warnings that stand in a section; without one, those that stand in none."""
        if not self.has("warnings"):
            return []
        table = self.table("warnings")
        if "section" not in table.columns:
            table = table.with_columns(section=pl.lit(None, pl.String))
        return table.filter(pl.col("section").eq_missing(pl.lit(section, pl.String)))["text"].to_list()

    def edges(self) -> list[dict[str, Any]]:
        """Rows of the table of edges, in its order."""
        return self.table("edges").to_dicts()
