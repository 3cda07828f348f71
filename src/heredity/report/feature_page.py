"""The feature study's page: what a family's children and merge inherited, section by section."""

from pathlib import Path
from types import ModuleType

from heredity.report.feature_files import write_feature_files
from heredity.report.html import Section, page
from heredity.report.sections import (
    ablation,
    consensus,
    crosscoder,
    done,
    every,
    family,
    features,
    flow,
    found,
    historical,
    identity,
    inheritance,
    limits,
    losses,
    matchings,
    meaning,
    persistence,
    saes,
    sweep,
)
from heredity.report.view import View
from heredity.run import Run

COMMANDS = ("demo", "track")

_SECTIONS: tuple[ModuleType, ...] = (
    found, done, family, losses, sweep, saes, flow, persistence, identity, consensus, inheritance, matchings,
    historical, crosscoder, ablation, features, meaning, every, limits,
)  # fmt: skip


_ONLY_DEMO = (losses, sweep)  # `track` may have losses, and never has a sweep


def draw(run: Run) -> str:
    """Render the page of a run; a section without its tables says in one line that it is not made yet."""
    view = View(run)
    return page(
        title=f"What was inherited: {view.record['config'].get('name', run.path.resolve().name)}",
        kicker=f"heredity {view.record['command']} · features through fine-tuning and merging",
        lead=_lead(view),
        sections=[_section(module, view) for module in _SECTIONS if _drawn(module, view)],
    )


def beside(run: Run, folder: Path) -> None:
    """Write the features' own pages into the report's folder."""
    write_feature_files(View(run), folder)


def _drawn(module: ModuleType, view: View) -> bool:
    """Say whether a section belongs on the page: not where its tables are empty, or never made by the command."""
    tables = module.PLAN.tables
    if tables and not module.PLAN.waits_for:
        return view.has(*tables)
    if view.record["command"] == "track" and not all(view.run.has_table(name) for name in tables):
        return module not in _ONLY_DEMO
    return view.has(*tables) or not all(view.run.has_table(name) for name in tables)


def _lead(view: View) -> list[str]:
    if view.has("findings", "members", "edges"):
        edges = view.table("edges").select("parent", "child").n_unique()
        return [
            "Which features of a model live on in the models made from it?",
            f"{len(view.members)} models of one family, {edges} step{'' if edges == 1 else 's'} from parent to child, "
            "all read by sparse autoencoders on the same held-out text.",
        ]
    return ["The run has not reached its findings yet: below is what has been made so far."]


def _section(module: ModuleType, view: View) -> Section:
    plan = module.PLAN
    if view.has(*plan.tables):
        script = getattr(module, "SCRIPT", None)
        return Section(plan.anchor, plan.title, f"{plan.anchor}.j2", module.values(view), script)
    return Section(plan.anchor, plan.title, "missing.j2", {"waits_for": plan.waits_for})
