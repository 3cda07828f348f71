"""Several processes that measure places at once: each opens the same ground and appends to the same scores.

A place is worth the same wherever it is measured, at one number of torch threads; so no number depends on how many
processes there are, and a run that is killed keeps what any of them has measured.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from heredity.family import Family, Member
from heredity.models.load import torch
from heredity.regions.evaluations import Score
from heredity.regions.metrics import Metric
from heredity.regions.place import Place

if TYPE_CHECKING:
    from heredity.regions.ground import Ground

Item = tuple[Place, Sequence[Metric]]


class GroundPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to open the ground.

    Attributes:
        name: of the family.
        members: of the family.
        root: folder of its relative paths.
        kind: "encoder" or "lm".
        folder: where the Gram matrix and the scores are kept, or None.
        chosen: names that are opened, or None for all.
        device: torch device.
        dtype: of the weights.
        threads: of torch, in each process.
    """

    name: str
    members: tuple[Member, ...]
    root: str
    kind: str
    folder: str | None
    chosen: tuple[str, ...] | None
    device: str
    dtype: str
    threads: int


class Workers:
    """Processes that stay until `close`; they are started when they are first needed."""

    def __init__(self, plan: GroundPlan, jobs: int) -> None:
        self.plan, self.jobs = plan, jobs
        self._pool: ProcessPoolExecutor | None = None

    def scores(self, items: Sequence[Item]) -> Iterator[tuple[list[list[Score]], float]]:
        """Yield the scores of each item, in order, and the seconds that they took."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.jobs, mp_context=get_context("spawn"), initializer=_open, initargs=(self.plan,)
            )
        waiting: list[Future[tuple[list[list[Score]], float]]] = [
            self._pool.submit(_score, item) for item in items
        ]
        try:
            for future in waiting:
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


_ground: list["Ground"] = []


def _open(plan: GroundPlan) -> None:
    from heredity.regions.ground import Ground

    torch.set_num_threads(plan.threads)
    family = Family(plan.name, plan.members, Path(plan.root))
    kind: Any = plan.kind
    _ground[:] = [
        Ground.open(
            family, kind=kind, folder=None if plan.folder is None else Path(plan.folder), members=plan.chosen,
            device=plan.device, dtype=plan.dtype,
        )
    ]  # fmt: skip


def _score(item: Item) -> tuple[list[list[Score]], float]:
    import time

    start = time.perf_counter()
    place, metrics = item
    return _ground[0].score(place, metrics), time.perf_counter() - start
