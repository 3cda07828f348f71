"""Third stage: harvest every member, train SAEs from independent seeds, measure them, encode the shared stream."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numba
import polars as pl
from tqdm import tqdm

from heredity.atomic import write_bytes
from heredity.errors import MismatchError, StoreError
from heredity.execute import Processes
from heredity.features.codes import Codes, encode
from heredity.features.diary import Diary
from heredity.features.evaluate import qualities, with_k
from heredity.features.sae import SAE
from heredity.features.sae._format import load as load_sae
from heredity.features.sae._format import save as save_sae
from heredity.features.store import ActivationStore
from heredity.features.train import train
from heredity.models.load import threads
from heredity.run import Run
from heredity.studies.features.config import Tracked
from heredity.studies.features.family import Say
from heredity.studies.features.jobs import (
    SaeJob,
    again,
    controlled,
    generations,
    history_of,
    jobs,
    store_of,
)
from heredity.studies.features.members import ends_in, harvest_member, load_member
from heredity.studies.features.text import Streams

CURVE = (8, 16, 32, 64)
_CURVE = {
    "member": pl.String, "variant": pl.String, "seed": pl.Int64, "k": pl.Int64, "l0": pl.Float64, "fvu": pl.Float64,
    "ce_recovered": pl.Float64,
}  # fmt: skip


def train_saes(run: Run, config: Tracked, streams: Streams, *, device: str, progress: bool, say: Say) -> None:
    """Train every SAE that is not trained yet, each in its own process with one thread; write `sae_training`."""
    if run.done("saes"):
        return
    run.start_stage()
    planned = jobs(run, config, device)
    missing = [job for job in planned if not job.done]
    for member in dict.fromkeys(job.member for job in missing):
        _harvest(run, config, streams, member, device)
        say(f"{member}: activations harvested")
    if missing:
        say(
            f"training {len(missing)} SAEs of {config.sae.latents:,} latents on {config.sae.tokens:,} tokens each"
        )
    for part in generations(missing):
        done = Processes(config.workers).map(train_one, part)
        seen = tqdm(done, total=len(part), unit="SAE", disable=not progress, leave=False)
        for job, history in zip(part, seen, strict=True):
            for row in history:
                run.metric(**row)
            last = history[-1]
            say(f"{job.name}: FVU {last['fvu']:.3f} at L0 {last['l0']:.1f} on its last training batch")
    rows = [row for job in planned for row in history_of(Path(job.out))]
    run.write_table("sae_training", pl.DataFrame(rows))
    shutil.rmtree(
        run.folder("activations"), ignore_errors=True
    )  # made again from models and text when needed
    run.finish_stage("saes", count=len(planned))


def train_one(job: SaeJob) -> list[dict[str, Any]]:
    """Train one SAE and save it in SAELens' layout with its history beside it; runs in a worker process."""
    start = None if job.start is None else load_sae(Path(job.start))
    labels = {"member": job.member, "variant": job.variant, "seed": job.seed}
    diary = Diary(Path(f"{job.checkpoint}.json"), job.training.steps, labels)
    numba.set_num_threads(1)  # one thread per worker: the workers share the machine
    with threads(1):
        sae = train(
            job.kind, ActivationStore.open(job.store), job.training, seed=job.stream, start=start,
            checkpoint=Path(job.checkpoint), callback=diary.log, device=job.device, progress=False,
        )  # fmt: skip
    save_sae(sae, Path(job.out))
    write_bytes(Path(job.out) / "history.json", msgspec.json.encode(diary.rows))  # last: the SAE is done
    Path(job.checkpoint).unlink(missing_ok=True)
    diary.path.unlink(missing_ok=True)
    return diary.rows


def evaluate_saes(run: Run, config: Tracked, streams: Streams, *, device: str, say: Say) -> None:
    """Measure every SAE on held-out text, and over k on the base; write `saes` and `sae_curve`."""
    if run.done("sae quality"):
        return
    run.start_stage()
    rows, curve = [], []
    held_out, planned = streams.test.head(config.sae.evaluation_tokens), jobs(run, config, device)
    with threads(config.threads):
        for member in config.members:
            model = load_member(run, member, device=device)
            own = [job for job in planned if job.member == member]
            saes = [load_sae(Path(job.out)) for job in own]
            # Only a TopK can be asked for another k than it was trained with.
            curved = member == config.root and config.sae.variant == "topk"
            ks = [k for k in CURVE if k <= config.sae.latents] if curved else []
            found = qualities(
                [*saes, *(with_k(saes[0], k) for k in ks)], model, held_out, config.sae.site,
                ends=ends_in(model, streams),
            )  # fmt: skip
            for job, sae, one in zip(own, saes, found, strict=False):
                who = {
                    "member": member,
                    "variant": job.variant,
                    "seed": job.seed,
                    "d_in": sae.d_in,
                    "d_sae": sae.d_sae,
                    "init": _origin(job, sae),
                }
                rows.append({**who, "train_tokens": config.sae.tokens, **msgspec.to_builtins(one)})
                recovered = "" if one.ce_recovered is None else f", CE recovered {one.ce_recovered:.1%}"
                say(f"{job.name}: FVU {one.fvu:.3f}{recovered} at L0 {one.l0:.1f}")
            curve += [
                {
                    "member": member,
                    "variant": "topk",
                    "seed": 0,
                    "k": q.k,
                    "l0": q.l0,
                    "fvu": q.fvu,
                    "ce_recovered": q.ce_recovered,
                }
                for q in found[len(own) :]
            ]
    known = {"init": pl.String}  # also where all are null
    run.write_table("saes", pl.DataFrame(rows, infer_schema_length=None, schema_overrides=known))
    run.write_table("sae_curve", pl.DataFrame(curve, schema=_CURVE))
    run.finish_stage("sae quality")


def codes_of(
    run: Run, config: Tracked, streams: Streams, *, device: str
) -> dict[tuple[str, str], list[Codes]]:
    """Return the sparse codes of every SAE that is followed or a control, made where they are not on disk.

    Returns:
        codes by seed, for each (member, variant).

    Raises:
        StoreError: no latent of an SAE fires often enough to be judged.
    """
    planned = jobs(run, config, device)
    kinds: list[tuple[str, str]] = [(member, config.sae.variant) for member in config.members]
    kinds += [(member, again(config.sae.variant)) for member in controlled(run, config)]
    found: dict[tuple[str, str], list[Codes]] = {}
    for member in config.members:
        own = [job for job in planned if (job.member, job.variant) in kinds and job.member == member]
        missing = [job for job in own if not (run.folder("codes") / job.name / "meta.json").exists()]
        if missing:
            out = run.folder("activations") / f"{member}-shared"
            store = harvest_member(run, config, streams, member, streams.shared, out, device=device)
            with threads(config.threads):
                for job in missing:
                    encode(load_sae(Path(job.out)), store).save(run.folder("codes") / job.name)
            shutil.rmtree(store.path, ignore_errors=True)
        for job in own:
            codes = Codes.open(run.folder("codes") / job.name)
            if codes.meta.stream_digest != streams.shared.digest:
                raise MismatchError(
                    f"{job.name}: codes of another token stream", "remove the run's codes and resume"
                )
            _check_firings(job.name, codes, config)
            found.setdefault((member, job.variant), []).append(codes)
    return found


def _check_firings(name: str, codes: Codes, config: Tracked) -> None:
    """Refuse an SAE none of whose latents can be judged: all its shares would be of nothing."""
    most = int(codes.firings.max())
    if most < config.lineage.min_firings:
        raise StoreError(
            f"{name}: no latent fires {config.lineage.min_firings} times on the {codes.n_tokens:,} tokens compared on "
            f"(L0 {codes.l0:.2f}; the busiest latent fires {most} times)",
            "lower the penalty in sae.options, train for longer, or compare on more text",
        )


def _origin(job: SaeJob, sae: SAE) -> str | None:
    """Name the SAE that one began with, and the digest of its weights."""
    return None if job.start is None else f"{Path(job.start).name} {sae.metadata['init']['digest']}"


def _harvest(run: Run, config: Tracked, streams: Streams, member: str, device: str) -> None:
    domains = config.domains_of(member) if config.sae.mix == "cumulative" else streams.train.domains
    text = streams.train.of(domains).head(config.sae.stream_tokens)
    if text.n_tokens < config.sae.batch_tokens:
        raise StoreError(
            f"{member}: {text.n_tokens:,} tokens to train SAEs on are fewer than one batch of "
            f"{config.sae.batch_tokens:,}",
            "lower sae.batch_tokens, raise sae.stream_tokens, or add text",
        )
    harvest_member(run, config, streams, member, text, store_of(run, member), device=device)
