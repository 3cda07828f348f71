"""What following a family's features will cost, before anything is done: passes, sums, bytes, and time here."""

import math
import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from torch import nn

from heredity.blas import one_blas_thread
from heredity.errors import ConfigError, DiskFullError
from heredity.features.consensus import LEAST_SEEDS
from heredity.features.site import Site
from heredity.features.sites import places
from heredity.models.architecture import unweighted
from heredity.run import read_record
from heredity.studies.features.config import StudyConfig
from heredity.studies.features.crosscoder_settings import CrosscoderSettings
from heredity.studies.features.saes import Sae

_EFFICIENCY = 0.5  # of a plain matrix product's speed, that the work as a whole reaches
_PAIRS_PER_SECOND = 4e8  # of firings, in the sparse correlation, on one core
_FLOOR_SHARE = 5  # twenty shifts, each on a quarter of the latents
_MATCH_BYTES, _PAGE_BYTES = 90, 1000  # of a latent: its best partners by pair of seeds and side; its page


class Held(Struct, frozen=True):
    """Bytes that a run holds for some of its stages.

    Attributes:
        what: in words.
        folder: of the run, where they are.
        bytes: at their largest.
        until: the stage after which nothing is added any more.
        phases: when they lie there: while SAEs are trained, while they are compared.
    """

    what: str
    folder: str
    bytes: int
    until: str
    phases: tuple[str, ...] = ("train", "compare")


class Sizes(Struct, frozen=True, kw_only=True):
    """An estimate.

    Attributes:
        members: models.
        edges: (parent, child).
        d: width of the site.
        train_tokens: distinct tokens harvested per member to train on, at most.
        shared_tokens: tokens on which features are compared, at most.
        saes: to be trained.
        harvest_flops: of the models' passes.
        train_flops: of the SAEs' training, the least that it takes.
        firing_pairs: multiplied in the correlations, floors and ceilings included.
        crosscoder: latents of the crosscoder, 0 without one.
        held: what lies on the disk.
    """

    members: int
    edges: int
    d: int
    train_tokens: int
    shared_tokens: int
    saes: int
    harvest_flops: float
    train_flops: float
    firing_pairs: float
    crosscoder: int
    held: tuple[Held, ...]

    @property
    def bytes(self) -> int:
        """Bytes on disk at the largest: activations to train on are gone before members are compared."""
        return self._outstanding(())

    @property
    def disk_bytes(self) -> dict[str, int]:
        """Bytes by what they hold."""
        return {one.what: one.bytes for one in self.held}

    def seconds(self, flops_per_second: float) -> float:
        """Estimate the processor time, from the speed of a matrix product on one core."""
        products = (self.harvest_flops + self.train_flops) / (flops_per_second * _EFFICIENCY)
        return products + self.firing_pairs / _PAIRS_PER_SECOND

    def check(self, out: Path) -> None:
        """Check that the disk has room for what a run still has to write.

        Args:
            out: its folder; what an interrupted run has there is counted.

        Raises:
            DiskFullError: it has not.
        """
        place = next(p for p in (out, *out.resolve().parents) if p.exists())
        free = shutil.disk_usage(place).free
        needed = self._outstanding(_stages(out), out)
        if needed > free:
            raise DiskFullError(
                f"{out}: needs about {needed:,} bytes, {free:,} are free",
                "free some space, or lower sae.stream_tokens, text.shared_tokens or sae.latents",
            )

    def _outstanding(self, done: Collection[str], out: Path | None = None) -> int:
        missing = [
            (one, max(0, one.bytes - (_bytes_in(out / one.folder) if out is not None else 0)))
            for one in self.held
            if one.until not in done
        ]
        return max(sum(n for one, n in missing if phase in one.phases) for phase in ("train", "compare"))


def estimate(
    model: nn.Module, sae: Sae, *, members: int, edges: int, domains: int, shared_tokens: int, workers: int,
    checkpoints: int = 0, starts: int = 0, crosscoder: CrosscoderSettings | None = None,
) -> Sizes:  # fmt: skip
    """Estimate the cost from the settings and the members' shapes; no weight is read.

    Args:
        model: a member, with or without its weights.
        sae: settings, with the site; token counts in them are per domain.
        members, edges, domains: how many.
        shared_tokens: tokens per domain on which features are compared.
        workers: processes that train SAEs.
        checkpoints: bytes of the models themselves, where the run makes them.
        starts: members at whose SAEs those of children begin, where `sae.init` is parent: each is trained on once more.
        crosscoder: over all members, if there is one: its activations to compare on lie on the disk together.
    """
    train, shared = sae.stream_tokens * domains, shared_tokens * domains
    place = Site.parse(sae.site)
    module = place.find(model)
    own = next(name for name, each in model.named_modules() if each is module)
    found = places(model)
    row = next(p for p in found if p.module == own)
    layers = 1 + max((p.layer for p in found if p.layer is not None), default=0)
    passed = 1.0 if row.layer is None else (row.layer + 1) / layers  # a pass ends at the site
    d = int((row.input if place.side == "input" else row.output) or 0)
    parameters = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    followed = (members + (starts if sae.init == "parent" else 0)) * sae.seeds
    kinds = followed + (sae.l1 is not None)
    tested = sae.evaluation_tokens * domains * (2 + sae.seeds)
    weights = (2 * d * sae.latents + sae.latents + d) * 4
    pairs = edges * sae.seeds**2 + members * math.comb(sae.seeds, 2) + _FLOOR_SHARE * edges
    width = d * (2 if sae.keep == "float16" else 4)
    tables = 2 * edges * sae.seeds**2 * sae.latents * _MATCH_BYTES + members * sae.latents * _PAGE_BYTES
    joint, joint_k, joint_tokens, together = 0, 0, 0, 1
    if crosscoder is not None:
        kind, joint_tokens, together = (
            crosscoder.kind(sae, tuple(map(str, range(members)))),
            crosscoder.training(sae).tokens,
            members,
        )
        joint, joint_k = kind.d_sae, kind.k
    joint_weights = (2 * members * d * joint + 2 * joint + members * d) * 4 * (joint > 0)
    measured = members * sae.evaluation_tokens * domains * (joint > 0)
    held = (
        Held("text", "text", (train + 2 * shared) * 4, "text"),
        Held("models", "family", checkpoints, "losses"),
        Held("activations to train on", "activations", members * train * width, "saes", ("train",)),
        Held("checkpoints of SAEs", "work", 3 * max(workers * weights, joint_weights), "saes", ("train",)),
        Held("SAEs", "saes", kinds * weights + joint_weights, "saes"),
        Held(
            "activations to compare on",
            "activations",
            max(together * shared * width, measured * d * 4),
            "lineage",
            ("compare",),
        ),
        Held(
            "consensus SAEs", "saes", (sae.seeds >= LEAST_SEEDS) * members * weights, "lineage", ("compare",)
        ),
        Held(
            "codes",
            "codes",
            _code_bytes([sae.k] * followed + [joint_k] * (joint > 0), shared),
            "lineage",
            ("compare",),
        ),
        Held("tables and pages", "tables", tables, "report", ("compare",)),
    )
    return Sizes(
        members=members, edges=edges, d=d, train_tokens=train, shared_tokens=shared, saes=kinds,
        harvest_flops=2.0 * passed * parameters * (members * (train + shared + tested) + 4 * measured),
        train_flops=2.0 * d * (sae.latents * sae.tokens * kinds + members * joint * joint_tokens),
        firing_pairs=float(shared) * sae.k * (pairs * sae.k + members * (sae.seeds + _FLOOR_SHARE) * joint_k),
        crosscoder=joint,
        held=tuple(one for one in held if one.bytes),
    )  # fmt: skip


def _code_bytes(ks: Sequence[int], tokens: int) -> int:
    """Return bytes of codes with so many firings per token: each firing by token and by latent, each token's start."""
    return sum((14 * k + 8) * tokens for k in ks)


def of_study(config: StudyConfig) -> Sizes:
    """Estimate what a whole feature study will cost beside its language models' training."""
    model = unweighted({"vocab_size": config.text.vocabulary, **config.base.model})
    weights, n = 4 * sum(p.numel() for p in model.parameters()), len(config.members)
    return estimate(
        model, config.sae, members=n, edges=4, starts=2, domains=len(config.text.corpora),
        shared_tokens=config.text.shared_tokens, workers=config.workers,
        crosscoder=config.crosscoder,
        checkpoints=(n + 3) * weights,  # three more for the model in training: its weights and Adam's two moments
    )  # fmt: skip


def matrix_speed() -> float:
    """Measure a float32 matrix product on one core: multiplications and additions per second."""
    a = np.ones((768, 768), np.float32)
    with one_blas_thread():
        a @ a
        best = min(_timed(a) for _ in range(3))
    return 2.0 * 768**3 / best


def _timed(a: np.ndarray) -> float:
    start = time.thread_time()  # of this thread alone: other work on the machine does not slow it
    _ = a @ a
    return time.thread_time() - start


def _stages(out: Path) -> Collection[str]:
    """Return what an interrupted run has done; of a folder that is no run, whoever opens it will complain."""
    try:
        stages: dict[str, object] = read_record(out / "run.json")["stages"]
    except ConfigError:
        return ()
    return stages


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
