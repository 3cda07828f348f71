"""Third stage: harvest every member, train SAEs from independent seeds, measure them, encode the shared stream."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numba
import polars as pl
from tqdm import tqdm

from heredity.atomic import write_bytes
from heredity.errors import MismatchError
from heredity.execute import Processes
from heredity.features.codes import Codes, encode
from heredity.features.evaluate import qualities, with_k
from heredity.features.harvest import harvest
from heredity.features.sae import L1, TopK
from heredity.features.sae._format import load as load_sae
from heredity.features.sae._format import save as save_sae
from heredity.features.store import ActivationStore
from heredity.features.train import Training, train
from heredity.models.load import threads
from heredity.run import Run
from heredity.seeds import key
from heredity.studies.features.config import Tracked
from heredity.studies.features.family import Say
from heredity.studies.features.members import ends_in, load_member
from heredity.studies.features.text import Streams

CURVE = (8, 16, 32, 64)
_LOG_EVERY = 50


class SaeJob(msgspec.Struct, frozen=True, kw_only=True):
    """One SAE to train, as plain values that cross to a worker process."""

    member: str
    variant: str
    seed: int
    store: str
    out: str
    checkpoint: str
    latents: int
    k: int
    l1: float
    training: Training
    stream: int
    device: str

    @property
    def name(self) -> str:
        """Folder of the SAE."""
        return f"{self.member}-{self.variant}-{self.seed}"


def train_saes(run: Run, config: Tracked, streams: Streams, *, device: str, progress: bool, say: Say) -> None:
    """Train every SAE that is not trained yet, each in its own process with one thread; write `sae_training`."""
    if run.done("saes"):
        return
    run.start_stage()
    jobs = _jobs(run, config, device)
    missing = [job for job in jobs if not (Path(job.out) / "history.json").exists()]
    for member in dict.fromkeys(job.member for job in missing):
        _harvest(run, config, streams, member, device)
        say(f"{member}: activations harvested")
    if missing:
        say(
            f"training {len(missing)} SAEs of {config.sae.latents:,} latents on {config.sae.tokens:,} tokens each"
        )
    done = Processes(config.workers).map(train_one, missing)
    for job, history in zip(
        missing, tqdm(done, total=len(missing), unit="SAE", disable=not progress, leave=False), strict=True
    ):
        for row in history:
            run.metric(**row)
        say(
            f"{job.name}: FVU {history[-1]['fvu']:.3f} at L0 {history[-1]['l0']:.1f} on its last training batch"
        )
    rows = [row for job in jobs for row in msgspec.json.decode((Path(job.out) / "history.json").read_bytes())]
    run.write_table("sae_training", pl.DataFrame(rows))
    shutil.rmtree(
        run.folder("activations"), ignore_errors=True
    )  # made again from models and text when needed
    run.finish_stage("saes", count=len(jobs))


def train_one(job: SaeJob) -> list[dict[str, Any]]:
    """Train one SAE and save it in SAELens' layout with its history beside it; runs in a worker process."""
    variant = TopK(d_sae=job.latents, k=job.k) if job.variant == "topk" else L1(d_sae=job.latents, l1=job.l1)
    diary = Path(f"{job.checkpoint}.json")
    history: list[dict[str, Any]] = []
    before = msgspec.json.decode(diary.read_bytes()) if diary.exists() else []

    def log(values: dict[str, Any]) -> None:
        if not history and before:  # resumed: keep what the diary has from before the checkpoint
            history.extend(row for row in before if row["step"] < values["step"])
            before.clear()
        if values["step"] % _LOG_EVERY == 0 or values["step"] == job.training.steps:
            history.append({"member": job.member, "variant": job.variant, "seed": job.seed, **values})
            write_bytes(diary, msgspec.json.encode(history))

    numba.set_num_threads(1)  # one thread per worker: the workers share the machine
    with threads(1):
        sae = train(
            variant, ActivationStore.open(job.store), job.training, seed=job.stream, checkpoint=Path(job.checkpoint),
            callback=log, device=job.device, progress=False,
        )  # fmt: skip
    save_sae(sae, Path(job.out))
    write_bytes(Path(job.out) / "history.json", msgspec.json.encode(history))  # last: the SAE is done
    Path(job.checkpoint).unlink(missing_ok=True)
    diary.unlink(missing_ok=True)
    return history


def evaluate_saes(run: Run, config: Tracked, streams: Streams, *, device: str, say: Say) -> None:
    """Measure every SAE on held-out text, and over k on the base; write `saes` and `sae_curve`."""
    if run.done("sae quality"):
        return
    run.start_stage()
    rows, curve = [], []
    held_out = streams.test.head(config.sae.evaluation_tokens)
    with threads(config.threads):
        for member in config.members:
            model = load_member(run, member, device=device)
            jobs = [j for j in _jobs(run, config, device) if j.member == member]
            saes = [load_sae(Path(job.out)) for job in jobs]
            ks = [k for k in CURVE if k <= config.sae.latents] if member == config.root else []
            found = qualities(
                [*saes, *(with_k(saes[0], k) for k in ks)], model, held_out, config.sae.site,
                ends=ends_in(model, streams),
            )  # fmt: skip
            for job, sae, one in zip(jobs, saes, found, strict=False):
                who = {
                    "member": member,
                    "variant": job.variant,
                    "seed": job.seed,
                    "d_in": sae.d_in,
                    "d_sae": sae.d_sae,
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
                for q in found[len(jobs) :]
            ]
    run.write_table("saes", pl.DataFrame(rows, infer_schema_length=None))
    run.write_table("sae_curve", pl.DataFrame(curve))
    run.finish_stage("sae quality")


def codes_of(run: Run, config: Tracked, streams: Streams, *, device: str) -> dict[tuple[str, int], Codes]:
    """Return the sparse codes of every member and seed over the shared stream, made when they are not on disk."""
    found: dict[tuple[str, int], Codes] = {}
    for member in config.members:
        jobs = [j for j in _jobs(run, config, device) if j.member == member and j.variant == "topk"]
        missing = [j for j in jobs if not (run.folder("codes") / j.name / "meta.json").exists()]
        if missing:
            model = load_member(run, member, device=device)
            with threads(config.threads):
                store = harvest(
                    model,
                    streams.shared,
                    config.sae.site,
                    run.folder("activations") / f"{member}-shared",
                    member=member,
                    dtype=config.sae.keep,
                    ends=ends_in(model, streams),
                )
                for job in missing:
                    encode(load_sae(Path(job.out)), store).save(run.folder("codes") / job.name)
            shutil.rmtree(store.path, ignore_errors=True)
        for job in jobs:
            codes = Codes.open(run.folder("codes") / job.name)
            if codes.meta.stream_digest != streams.shared.digest:
                raise MismatchError(
                    f"{job.name}: codes of another token stream", "remove the run's codes and resume"
                )
            found[member, job.seed] = codes
    return found


def _harvest(run: Run, config: Tracked, streams: Streams, member: str, device: str) -> None:
    domains = config.domains_of(member) if config.sae.mix == "cumulative" else streams.train.domains
    text = streams.train.of(domains).head(config.sae.stream_tokens)
    model = load_member(run, member, device=device)
    with threads(config.threads):
        harvest(
            model, text, config.sae.site, _store(run, member), member=member, dtype=config.sae.keep,
            ends=ends_in(model, streams),
        )  # fmt: skip


def _store(run: Run, member: str) -> Path:
    return run.folder("activations") / member


def _jobs(run: Run, config: Tracked, device: str) -> list[SaeJob]:
    plan = [(member, "topk", seed) for member in config.members for seed in range(config.sae.seeds)]
    if config.sae.l1 is not None:
        plan.append((config.root, "l1", 0))
    training = Training(
        tokens=config.sae.tokens, batch_tokens=config.sae.batch_tokens, rate=config.sae.learning_rate,
        beta2=config.sae.beta2, dtype=config.sae.dtype, dead_after_tokens=min(100_000, max(1, config.sae.tokens // 10)),
        resample_every_tokens=min(500_000, max(1, config.sae.tokens // 6)),
    )  # fmt: skip
    return [
        SaeJob(
            member=member, variant=variant, seed=seed, store=str(_store(run, member)), latents=config.sae.latents,
            out=str(run.folder("saes") / f"{member}-{variant}-{seed}"), training=training,
            k=config.sae.k, l1=config.sae.l1 or 0.0,
            checkpoint=str(run.folder("work") / f"{member}-{variant}-{seed}.safetensors"), device=device,
            # Every SAE draws its own numbers: latents of two members must not align because of a shared start.
            stream=key(run.seed, "sae", member, variant, seed) >> 1,
        )
        for member, variant, seed in plan
    ]  # fmt: skip
