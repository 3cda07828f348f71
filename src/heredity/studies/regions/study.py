"""The study of regions from nothing to a page; every stage resumes, and every measured place is kept."""

import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from heredity.models.load import threads
from heredity.regions.ground import Ground
from heredity.report.page import write_report
from heredity.run import Run
from heredity.studies.regions import between, centre
from heredity.studies.regions.config import RegionsStudy
from heredity.studies.regions.findings import compute_table, findings
from heredity.studies.regions.material import Material
from heredity.studies.regions.summaries import summarise

Say = Callable[[str], None]


def study(
    run: Run,
    config: RegionsStudy,
    *,
    root: Path,
    device: str = "cpu",
    jobs: int = 1,
    say: Say = lambda _: None,
) -> None:
    """Run what is not done yet, drawing the page after each part.

    Args:
        run: the folder to fill or to go on with.
        config: the settings.
        root: folder of the labelled sets, or that relative paths of corpora start from.
        device: torch device.
        jobs: processes that train and measure at once, each with `config.threads`; no number depends on it.
        say: takes one line of progress at a time.

    Raises:
        HeredityError: a stage cannot be done; what is done stays.
    """
    with threads(config.threads):
        material = _material(run, config, root, device, jobs, say)
        try:
            _stages(run, config, material, say)
        finally:
            material.ground.close()


def _stages(run: Run, config: RegionsStudy, material: Material, say: Say) -> None:
    _describe(run, config, material)
    ground = material.ground
    stages: dict[str, Callable[[], None]] = {
        "clusters": lambda: between.cluster(run, config, material),
        "controls": lambda: between.control(run, config, material),
        "centre": lambda: centre.start_from_centre(run, config, material, say),
        "separation": lambda: between.separate(run, config, material, say),
        "interpolation": lambda: between.interpolate(run, config, material, say),
        "edges": lambda: between.find_edges(run, config, material, say),
    }
    if config.starts is not None and material.tasks is not None and config.starts.sets:
        starts, tasks = config.starts, material.tasks
        stages["starts"] = lambda: centre.search_starts(
            run, config, starts, material, tasks, material.dtype, say
        )
    for name, stage in stages.items():
        if run.done(name):
            continue
        run.start_stage()
        cpu, elsewhere = time.process_time(), sum(ground.evaluations.seconds.values())
        stage()
        spent = time.process_time() - cpu
        if ground.workers is not None:  # one thread each: their seconds are processor seconds, about
            spent += sum(ground.evaluations.seconds.values()) - elsewhere
        run.finish_stage(name, cpu_seconds=round(spent, 3))
        say(f"{name}: done")
        _tell(run, config, ground)
    _tell(run, config, ground)  # what was measured before is summed up as this version does


def _tell(run: Run, config: RegionsStudy, ground: Ground) -> None:
    run.write_table("compute", compute_table(run, ground))
    summarise(run, config)
    run.write_table("findings", findings(run))
    write_report(run)


def _material(run: Run, config: RegionsStudy, root: Path, device: str, jobs: int, say: Say) -> Material:
    if config.encoder is not None:
        from heredity.studies.regions.encoders import train_encoders

        return train_encoders(run, config, config.encoder, root, device=device, jobs=jobs, say=say)
    if config.lm is not None:
        from heredity.studies.regions.languages import train_languages

        return train_languages(run, config, config.lm, root, device=device, jobs=jobs, say=say)
    raise ValueError("settings without a family")  # they are checked when they are read


def _describe(run: Run, config: RegionsStudy, material: Material) -> None:
    """Write `members`: every member with its set, its family, and how far it moved."""
    names = material.ground.members
    norms = material.ground.norms(names).tolist()
    sets = [material.data[name] for name in names]
    rows = [(name, own, config.groups[own], norm) for name, own, norm in zip(names, sets, norms, strict=True)]
    run.write_table(
        "members", pl.DataFrame(rows, schema=["member", "data", "family", "delta_norm"], orient="row")
    )
    notes = [("data", note) for note in material.notes]
    run.write_table(
        "warnings", pl.DataFrame(notes, schema={"kind": pl.String, "text": pl.String}, orient="row")
    )
