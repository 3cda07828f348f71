"""The part of the study that `demo` and `track` share: from a family and its streams to the page."""

from heredity.report.page import write_report
from heredity.run import Run
from heredity.studies.features import crosscoder, findings, lineage, track
from heredity.studies.features.config import Tracked
from heredity.studies.features.family import Say
from heredity.studies.features.text import Streams


def follow_features(
    run: Run, config: Tracked, streams: Streams, *, device: str, progress: bool, say: Say
) -> None:
    """Train and measure SAEs, follow their features along every edge, say what was found, draw the page."""
    write_report(run)
    crosscoder.train_joint(run, config, streams, device=device, say=say)  # what it harvests, SAEs need next
    track.train_saes(run, config, streams, device=device, progress=progress, say=say)
    track.evaluate_saes(run, config, streams, device=device, say=say)
    write_report(run)
    crosscoder.judge(run, config, streams, device=device, say=say)
    lineage.follow(run, config, streams, device=device, say=say)
    run.write_table("findings", findings.findings(run, config))
    write_report(run)
    run.finish_stage("report")
