"""Map a function over items: serially, in threads, in processes, or on Ray, which only this file knows.

Results come in the order of the items, whatever finishes first, so that nothing depends on who did the work.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from heredity.errors import ConfigError, ExtraMissingError

T = TypeVar("T")
R = TypeVar("R")


class Execution(Protocol):
    """Anything that maps a function over items and yields results in order.

    Attributes:
        jobs: how many items may be worked on at once.
    """

    @property
    def jobs(self) -> int: ...

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]: ...


@dataclass(frozen=True)
class Serial:
    """One after the other, in this process."""

    jobs: int = 1

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield task(item) for every item."""
        return map(task, items)


@dataclass(frozen=True)
class Threads:
    """In threads of this process: for kernels and reads, which release the interpreter lock."""

    jobs: int

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield task(item) in order; at most 2 · jobs items are ahead of the consumer."""
        with ThreadPoolExecutor(self.jobs) as pool:
            yield from _ahead(pool, task, items, 2 * self.jobs)


@dataclass(frozen=True)
class Processes:
    """In fresh processes: for work in Python itself. The task and the items must pickle."""

    jobs: int

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield task(item) in order; at most 2 · jobs items are ahead of the consumer."""
        with ProcessPoolExecutor(self.jobs, mp_context=get_context("spawn")) as pool:
            yield from _ahead(pool, task, items, 2 * self.jobs)


@dataclass(frozen=True)
class Ray:
    """On a Ray cluster. Workers must see the files under the same paths.

    Attributes:
        jobs: how many items may be worked on at once.
        address: of the cluster; None: RAY_ADDRESS, or a new local one.
    """

    jobs: int
    address: str | None = None

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield task(item) in order.

        Raises:
            ExtraMissingError: Ray is not installed.
        """
        ray = _ray()
        if not ray.is_initialized():
            ray.init(
                address=self.address,
                num_cpus=None if self.address else self.jobs,
                include_dashboard=False,
                log_to_driver=False,
            )
        remote, shared = ray.remote(_call), ray.put(task)  # the task is sent once, not with every item
        waiting: deque[Any] = deque()
        try:
            for item in items:
                waiting.append(remote.remote(shared, item))
                if len(waiting) >= 2 * self.jobs:
                    yield _result(ray, waiting.popleft())
            while waiting:
                yield _result(ray, waiting.popleft())
        finally:
            for reference in waiting:
                ray.cancel(reference)


def choose(jobs: int = 1, ray: str | None = None) -> Execution:
    """Return the execution that the options -j and --ray ask for.

    Args:
        jobs: threads of this process, or tasks at once on the cluster.
        ray: address of a cluster; "" or "local" starts a local one; None means no Ray.

    Raises:
        ConfigError: fewer than one job.
    """
    if jobs < 1:
        raise ConfigError(f"{jobs} jobs cannot do any work", "-j takes 1 or more")
    if ray is not None:
        return Ray(jobs, None if ray in ("", "local") else ray)
    return Serial() if jobs == 1 else Threads(jobs)


def _ahead(pool: Executor, task: Callable[[T], R], items: Iterable[T], depth: int) -> Iterator[R]:
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(task, item))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ExtraMissingError("--ray", "ray") from None
    return ray


def _call(task: Callable[[T], R], item: T) -> R:
    return task(item)


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
