"""The feature study from nothing to a page: text, family, features, lineage, findings. Each stage resumes."""

from collections.abc import Callable
from pathlib import Path

import numba

from heredity.run import Run
from heredity.studies.features import family, text
from heredity.studies.features.config import StudyConfig
from heredity.studies.features.following import follow_features


def study(
    run: Run,
    config: StudyConfig,
    *,
    root: Path,
    device: str = "cpu",
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> bool:
    """Run what is not done yet, drawing the page after each part; return whether anything was left to do.

    Args:
        run: the folder to fill or to go on with.
        config: the settings; a resumed run has the same ones.
        root: folder that relative paths of corpora start from.
        device: torch device of models and SAEs.
        progress: draw progress bars on stderr.
        say: takes one line of progress at a time.

    Raises:
        HeredityError: a stage cannot be done; what is done stays.
    """
    if run.done("report"):
        return False
    numba.set_num_threads(
        1
    )  # two parallel runtimes in one process only wait for each other; no bit depends on it
    streams = text.prepare(run, config, root=root, say=say)
    family.train_members(run, config, streams, device=device, progress=progress, say=say)
    family.merge_children(run, config, family.sweep(run, config, streams, device=device, say=say))
    family.score(run, config, streams, device=device, say=say)
    follow_features(run, config, streams, device=device, progress=progress, say=say)
    return True
