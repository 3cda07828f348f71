"""Which SAEs a run trains, each as plain values that cross to a worker process, and in which order."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from heredity.errors import StoreError
from heredity.features.sae import L1, Variant
from heredity.features.train import Training
from heredity.run import Run
from heredity.seeds import key
from heredity.studies.features.config import Tracked
from heredity.studies.features.members import family_of


class SaeJob(msgspec.Struct, frozen=True, kw_only=True):
    """One SAE to train.

    Attributes:
        member: whose activations.
        variant: what it is called in tables and in its folder's name.
        seed: which of the member's SAEs.
        kind: the SAE as a value.
        store: folder of the activations.
        out: folder of the SAE.
        checkpoint: of the training.
        training: how long and how fast.
        stream: key of its random numbers.
        device: where to compute.
        start: folder of the SAE that it begins with; None: random weights.
    """

    member: str
    variant: str
    seed: int
    kind: Variant
    store: str
    out: str
    checkpoint: str
    training: Training
    stream: int
    device: str
    start: str | None = None

    @property
    def name(self) -> str:
        """Folder of the SAE."""
        return Path(self.out).name

    @property
    def done(self) -> bool:
        """Whether it is trained."""
        return (Path(self.out) / "history.json").exists()


def history_of(folder: Path) -> list[dict[str, Any]]:
    """Read what a training noted, from the folder of its SAE.

    Raises:
        StoreError: the file is damaged.
    """
    file = folder / "history.json"
    try:
        rows: list[dict[str, Any]] = msgspec.json.decode(file.read_bytes(), type=list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise StoreError(f"{file}: is damaged ({error})", f"remove {folder} and resume") from None
    return rows


def jobs(run: Run, config: Tracked, device: str) -> list[SaeJob]:
    """List every SAE of a run: those followed, controls of a warm start, an L1 for comparison."""
    sae, begun = config.sae, starts(run, config)
    plan: list[tuple[str, str, int, str | None]] = [
        (member, sae.variant, seed, begun.get(member))
        for member in config.members
        for seed in range(sae.seeds)
    ]
    plan += [
        (member, again(sae.variant), seed, member)
        for member in controlled(run, config)
        for seed in range(sae.seeds)
    ]
    if sae.l1 is not None:
        plan.append((config.root, "l1", 0, None))
    training = Training(
        tokens=sae.tokens, batch_tokens=sae.batch_tokens, rate=sae.learning_rate, beta2=sae.beta2, dtype=sae.dtype,
        dead_after_tokens=min(100_000, max(1, sae.tokens // 10)),
        resample_every_tokens=min(500_000, max(1, sae.tokens // 6)),
    )  # fmt: skip
    return [
        SaeJob(
            member=member, variant=variant, seed=seed, store=str(store_of(run, member)), out=str(folder(run, name)),
            kind=sae.kind if variant.startswith(sae.variant) else L1(d_sae=sae.latents, l1=sae.l1 or 0.0),
            checkpoint=str(run.folder("work") / f"{name}.safetensors"), training=training, device=device,
            start=None if start is None else str(folder(run, sae_name(start, sae.variant, seed))),
            # Every SAE draws its own numbers: latents of two members must not align because of a shared start.
            stream=key(run.seed, "sae", member, variant, seed) >> 1,
        )
        for member, variant, seed, start in plan
        for name in [sae_name(member, variant, seed)]
    ]  # fmt: skip


def starts(run: Run, config: Tracked) -> dict[str, str]:
    """Return the member at whose SAE each other member's begins: of two parents the one that is named first."""
    if config.sae.init == "random":
        return {}
    found: dict[str, str] = {}
    for parent, child in family_of(run).edges():
        found.setdefault(child, parent)
    return found


def controlled(run: Run, config: Tracked) -> list[str]:
    """List the members whose SAEs are trained on with their own activations: what a child's SAE is held against."""
    parents = starts(run, config).values()
    return [member for member in config.members if member in parents]


def again(variant: str) -> str:
    """Return what an SAE is called that goes on from a finished one of its own member."""
    return f"{variant}-again"


def sae_name(member: str, variant: str, seed: int) -> str:
    """Return the folder name of an SAE."""
    return f"{member}-{variant}-{seed}"


def folder(run: Run, name: str) -> Path:
    """Return the folder of an SAE."""
    return run.folder("saes") / name


def store_of(run: Run, member: str) -> Path:
    """Return the folder of the activations that a member's SAEs are trained on."""
    return run.folder("activations") / member


def generations(waiting: Sequence[SaeJob]) -> Iterator[list[SaeJob]]:
    """Divide jobs so that each comes after the one it begins with; those of one part can be done at once."""
    left = list(waiting)
    while left:
        unmade = {job.out for job in left}
        ready = [job for job in left if job.start not in unmade]
        yield ready
        left = [job for job in left if job.start in unmade]
