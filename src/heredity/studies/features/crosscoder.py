"""A crosscoder over all members beside their own SAEs: trained, measured, judged, set against correlation.

Its activations are the SAEs': those to train on are harvested before the SAEs need them, and those to compare on
before the SAEs' codes are made, so that no pass of a model is made twice. For the latter the members' activations
lie on the disk together, as long as the crosscoder and the codes are made.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numba
import polars as pl

from heredity.atomic import write_bytes
from heredity.corpora.tokens import TokenStream
from heredity.errors import MismatchError
from heredity.execute import Processes
from heredity.family import Family
from heredity.features.codes import Codes
from heredity.features.crosscoder_edges import crosscoder_tables
from heredity.features.crosscoder_quality import OnDemand, crosscoder_qualities
from heredity.features.crosscoding import crosscoder_table, encode_members, train_crosscoder
from heredity.features.diary import Diary
from heredity.features.l0 import unequal_l0
from heredity.features.lineage import Lineage
from heredity.features.sae import Crosscoder
from heredity.features.sae._format import load as load_sae
from heredity.features.sae._format import save as save_sae
from heredity.features.store import ActivationStore
from heredity.features.train import Training
from heredity.models.load import threads
from heredity.run import Run
from heredity.seeds import key
from heredity.studies.features.config import Tracked
from heredity.studies.features.family import Say
from heredity.studies.features.jobs import history_of
from heredity.studies.features.members import ends_in, harvest_member, load_member
from heredity.studies.features.text import Streams

_NAME = "crosscoder"


class CrosscoderJob(msgspec.Struct, frozen=True, kw_only=True):
    """A crosscoder to train, as plain values that cross to a worker process.

    Attributes:
        kind: with the members in order.
        training: how long and how fast.
        stores: folders of the members' activations.
        out: folder of the crosscoder.
        checkpoint: of the training.
        stream: key of its random numbers.
        device: where to compute.
    """

    kind: Crosscoder
    training: Training
    stores: tuple[str, ...]
    out: str
    checkpoint: str
    stream: int
    device: str


def check_related(family: Family) -> None:
    """Check that all members descend from each other, so that they share a basis.

    Raises:
        MismatchError: two members are not related.
    """
    first, *others = [member.name for member in family.members]
    near, grown = {first}, True
    while grown:
        more = {end for edge in family.edges() for end in edge if near & {*edge}} - near
        near, grown = near | more, bool(more)
    strangers = [name for name in others if name not in near]
    if strangers:
        raise MismatchError(
            f"family {family.name}: {first} and {strangers[0]} are not related, a crosscoder's members share a basis",
            "name the parents in the family file, or leave the crosscoder out",
        )


def train_joint(run: Run, config: Tracked, streams: Streams, *, device: str, say: Say) -> None:
    """Train the crosscoder, if one is asked for, in a process of its own with one thread; write `crosscoder_training`.

    The members' activations stay for their own SAEs, where these are trained on the same text.
    """
    if config.crosscoder is None or run.done("crosscoder"):
        return
    run.start_stage()
    own = config.sae.mix == "cumulative"  # the members' SAEs are trained on other text, each on its own
    text = streams.train.of(streams.train.domains).head(config.sae.stream_tokens)
    folders = [run.folder("activations") / f"{name}{'-joint' if own else ''}" for name in config.members]
    job = CrosscoderJob(
        kind=config.crosscoder.kind(config.sae, config.members), training=config.crosscoder.training(config.sae),
        stores=tuple(map(str, folders)), out=str(run.folder("saes") / _NAME),
        checkpoint=str(run.folder("work") / f"{_NAME}.safetensors"), stream=key(run.seed, _NAME) >> 1, device=device,
    )  # fmt: skip
    if not (Path(job.out) / "history.json").exists():
        _harvest(run, config, streams, text, folders, device)
        say(
            f"training a crosscoder of {job.kind.d_sae:,} latents over {len(folders)} members "
            f"on {job.training.tokens:,} tokens"
        )
        (history,) = Processes(1).map(train_one, [job])
        for row in history:
            run.metric(**row)
        last = history[-1]
        say(f"{_NAME}: FVU {last['fvu']:.3f} at L0 {last['l0']:.1f} on its last training batch")
    run.write_table("crosscoder_training", pl.DataFrame(history_of(Path(job.out))))
    if own:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    run.finish_stage("crosscoder")


def train_one(job: CrosscoderJob) -> list[dict[str, Any]]:
    """Train a crosscoder and save it with its history beside it; runs in a worker process."""
    diary = Diary(Path(f"{job.checkpoint}.json"), job.training.steps, {"variant": _NAME})
    numba.set_num_threads(1)
    with threads(1):
        sae = train_crosscoder(
            job.kind, [ActivationStore.open(folder) for folder in job.stores], job.training, seed=job.stream,
            checkpoint=Path(job.checkpoint), callback=diary.log, device=job.device, progress=False,
        )  # fmt: skip
    save_sae(sae, Path(job.out))
    write_bytes(Path(job.out) / "history.json", msgspec.json.encode(diary.rows))  # last: it is done
    Path(job.checkpoint).unlink(missing_ok=True)
    diary.path.unlink(missing_ok=True)
    return diary.rows


def judge(run: Run, config: Tracked, streams: Streams, *, device: str, say: Say) -> None:
    """Measure the crosscoder on held-out text and judge its latents; write `crosscoder_quality` and `crosscoder`."""
    if config.crosscoder is None:
        return
    if not run.done("crosscoder quality"):
        _measure(run, config, streams, device=device, say=say)
    if not run.done("crosscoder latents"):
        _encode(run, config, streams, device=device, say=say)


def edges(run: Run, config: Tracked, lineage: Lineage) -> dict[str, pl.DataFrame]:
    """Return the tables that set the crosscoder against correlation; none without a crosscoder."""
    if config.crosscoder is None:
        return {}
    return crosscoder_tables(lineage, run.table("crosscoder"), Codes.open(run.folder("codes") / _NAME))


def unequal(run: Run, config: Tracked, lineage: Lineage) -> list[str]:
    """Say when a member's SAE and the crosscoder differ in L0 on the text compared on by more than 20 %."""
    if config.crosscoder is None:
        return []
    joint = Codes.open(run.folder("codes") / _NAME).l0
    own = {
        f"{name} seed {seed}": codes.l0
        for name, seeds in lineage.members.items()
        for seed, codes in enumerate(seeds)
    }
    far = max(own, key=lambda name: max(own[name], joint) / max(min(own[name], joint), 1e-9))
    return [
        f"crosscoder beside SAEs: {line}" for line in unequal_l0({"the crosscoder": joint, far: own[far]})
    ]


def _measure(run: Run, config: Tracked, streams: Streams, *, device: str, say: Say) -> None:
    run.start_stage()
    sae = load_sae(run.folder("saes") / _NAME)
    with threads(config.threads):
        found = crosscoder_qualities(
            sae, OnDemand(config.members, lambda name: load_member(run, name, device=device)),
            streams.test.head(config.sae.evaluation_tokens), config.sae.site,
            ends=lambda model: ends_in(model, streams), work=run.folder("activations") / "held-out",
        )  # fmt: skip
    rows = []
    for member, one in found.items():
        who = {"member": member, "d_in": sae.d_in // len(config.members), "d_sae": sae.d_sae}
        rows.append({**who, "train_tokens": sae.metadata["train_tokens"], **msgspec.to_builtins(one)})
        recovered = "" if one.ce_recovered is None else f", CE recovered {one.ce_recovered:.1%}"
        say(f"{_NAME}, {member}: FVU {one.fvu:.3f}{recovered} at L0 {one.l0:.1f}")
    run.write_table("crosscoder_quality", pl.DataFrame(rows, infer_schema_length=None))
    run.finish_stage("crosscoder quality")


def _encode(run: Run, config: Tracked, streams: Streams, *, device: str, say: Say) -> None:
    """Make the codes over the shared stream and judge every latent; the activations stay for the SAEs' codes."""
    run.start_stage()
    sae, out = load_sae(run.folder("saes") / _NAME), run.folder("codes") / _NAME
    folders = [run.folder("activations") / f"{name}-shared" for name in config.members]
    stores = _harvest(run, config, streams, streams.shared, folders, device)
    with threads(config.threads):
        if not (out / "meta.json").exists():
            encode_members(sae, stores).save(out)
        table = crosscoder_table(sae, stores, codes=Codes.open(out), min_firings=config.lineage.min_firings)
    run.write_table("crosscoder", table)
    run.finish_stage("crosscoder latents")
    counts = table.group_by("verdict").len().sort("len", "verdict", descending=[True, False])
    say(f"{_NAME}: " + ", ".join(f"{n:,} {verdict}" for verdict, n in counts.iter_rows()))


def _harvest(
    run: Run, config: Tracked, streams: Streams, text: TokenStream, folders: Sequence[Path], device: str
) -> list[ActivationStore]:
    """Harvest every member over one text, one model in memory at a time; what is there is kept."""
    return [
        harvest_member(run, config, streams, name, text, folder, device=device)
        for name, folder in zip(config.members, folders, strict=True)
    ]
