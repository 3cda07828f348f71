"""What tracking a family will cost, before anything is done: passes, sums, bytes, and time on this machine."""

import math
import shutil
import time
from pathlib import Path

import numpy as np
from msgspec import Struct

from heredity.blas import one_blas_thread
from heredity.errors import DiskFullError
from heredity.family import Family
from heredity.features.site import Site
from heredity.features.sites import places
from heredity.models.architecture import skeleton
from heredity.studies.tracking.config import TrackConfig

_EFFICIENCY = 0.5  # of a plain matrix product's speed, that the work as a whole reaches
_PAIRS_PER_SECOND = 4e8  # of firings, in the sparse correlation, on one core
_FLOOR_SHARE = 5  # twenty shifts, each on a quarter of the latents


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
        disk_bytes: by what they hold, at their largest.
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
    disk_bytes: dict[str, int]

    @property
    def bytes(self) -> int:
        """Bytes on disk in all."""
        return sum(self.disk_bytes.values())

    def seconds(self, flops_per_second: float) -> float:
        """Estimate the processor time, from the speed of a matrix product on one core."""
        products = (self.harvest_flops + self.train_flops) / (flops_per_second * _EFFICIENCY)
        return products + self.firing_pairs / _PAIRS_PER_SECOND

    def check(self, out: Path) -> None:
        """Check that the disk has room.

        Raises:
            DiskFullError: it has not.
        """
        place = next(p for p in (out, *out.resolve().parents) if p.exists())
        free = shutil.disk_usage(place).free
        if self.bytes > free:
            raise DiskFullError(
                f"{out}: needs about {self.bytes:,} bytes, {free:,} are free",
                "free some space, or lower sae.stream_tokens, text.shared_tokens or sae.latents",
            )


def estimate(config: TrackConfig, family: Family, n_domains: int) -> Sizes:
    """Estimate the cost of a run from its settings and the members' shapes; no weight is read.

    Args:
        config: with its site.
        family: with local paths.
        n_domains: of the text; token counts in the settings are per domain.
    """
    sae = config.sae
    n, edges = len(family.members), len(family.edges())
    train, shared = sae.stream_tokens * n_domains, config.text.shared_tokens * n_domains
    first = next(member for member in family.members if member.relation != "adapter")
    model = skeleton(first.path)
    place = Site.parse(sae.site)
    module = place.find(model)
    own = next(name for name, each in model.named_modules() if each is module)
    found = places(model)
    row = next(p for p in found if p.module == own)
    layers = 1 + max((p.layer for p in found if p.layer is not None), default=0)
    passed = 1.0 if row.layer is None else (row.layer + 1) / layers  # a pass ends at the site
    d = int((row.input if place.side == "input" else row.output) or 0)
    parameters = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    kinds = n * sae.seeds + (sae.l1 is not None)
    tested = sae.evaluation_tokens * n_domains * (2 + sae.seeds)
    weights = (2 * d * sae.latents + sae.latents + d) * 4
    pairs = edges * sae.seeds**2 + n * math.comb(sae.seeds, 2) + _FLOOR_SHARE * edges
    return Sizes(
        members=n, edges=edges, d=d, train_tokens=train, shared_tokens=shared, saes=kinds,
        harvest_flops=2.0 * passed * parameters * n * (train + shared + tested),
        train_flops=2.0 * d * sae.latents * sae.tokens * kinds,
        firing_pairs=float(pairs) * shared * sae.k**2,
        disk_bytes={
            "activations": n * train * d * (2 if sae.keep == "float16" else 4), "SAEs": kinds * weights,
            "checkpoints of SAEs": 3 * config.workers * weights, "codes": n * sae.seeds * shared * sae.k * 14,
            "text": (train + 2 * shared) * 4,
        },
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
