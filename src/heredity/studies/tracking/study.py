"""Features through any family, from its file and a text to a page. Each stage resumes."""

from collections.abc import Callable
from pathlib import Path

import numba
import polars as pl

from heredity.errors import StoreError
from heredity.family import Family
from heredity.models.architecture import predicts_text
from heredity.models.evaluate import lm_scores
from heredity.models.load import threads
from heredity.run import Run
from heredity.studies.features.distances import members_table
from heredity.studies.features.following import follow_features
from heredity.studies.features.members import load_member
from heredity.studies.features.text import Streams
from heredity.studies.tracking import kin, text
from heredity.studies.tracking.config import Subject, TrackConfig

Say = Callable[[str], None]


def track(
    run: Run,
    config: TrackConfig,
    family: Family,
    *,
    root: Path,
    device: str = "cpu",
    progress: bool = False,
    say: Say = lambda _: None,
) -> bool:
    """Run what is not done yet, drawing the page after each part; return whether anything was left to do.

    Args:
        run: the folder to fill or to go on with.
        config: the settings; a resumed run has the same ones.
        family: whose members are local folders: `kin.resolved`.
        root: folder that relative paths of text start from.
        device: torch device of models and SAEs.
        progress: draw progress bars on stderr.
        say: takes one line of progress at a time.

    Raises:
        HeredityError: a stage cannot be done; what is done stays.
    """
    if run.done("report"):
        return False
    numba.set_num_threads(1)  # as in the feature study: no bit depends on it
    reader = kin.check_tokenizers(family)
    kin.keep(run, family)
    streams = text.prepare(run, config, Path(family.member(reader).path), root=root, say=say)
    subject = Subject(config, family, streams.shared.domains)
    _describe(run, subject, say)
    _score(run, subject, streams, device, say)
    follow_features(run, subject, streams, device=device, progress=progress, say=say)
    return True


def _describe(run: Run, subject: Subject, say: Say) -> None:
    """Write the table `members`, with distances between their weights."""
    if run.done("members"):
        return
    run.start_stage()
    known = {
        member.name: tuple(str(member.labels[name]) for name in ("domain", "task") if name in member.labels)
        for member in subject.family.members
    }
    run.write_table("members", members_table(subject.family, subject.root, known, allow_partial=True))
    run.finish_stage("members")
    say(f"{len(known)} members, {len(subject.family.edges())} edges")


def _score(run: Run, subject: Subject, streams: Streams, device: str, say: Say) -> None:
    """Write the table `losses`, where every member is a causal LM."""
    if run.done("losses"):
        return
    run.start_stage()
    tables = []
    with threads(subject.threads):
        for name in subject.members:
            model = load_member(run, name, device=device)
            if not predicts_text(model):
                break
            try:
                scores = lm_scores(model, streams.test).table(seed=run.seed)
            except StoreError as error:
                raise StoreError(f"{name}: {error.message}", error.hint) from None
            tables.append(
                scores.select(pl.lit(name).alias("member"), pl.lit("test").alias("split"), pl.all())
            )
            say(
                f"{name}: loss "
                + ", ".join(f"{d} {v:.3f}" for d, v in scores.select("domain", "loss").iter_rows())
            )
    if len(tables) == len(subject.members):
        run.write_table("losses", pl.concat(tables))
    run.finish_stage("losses")
