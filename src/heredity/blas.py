"""One BLAS thread while it matters: how OpenBLAS splits a product among threads decides its last bits.

The number of threads mostly belongs to the process, not to who sets it. Two workers that each lower it and put
back what they found leave it lowered for good when they overlap, and what is computed later then depends on the
timing. Here whoever comes first lowers it, and the last one to leave puts it back.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import LibController, ThreadpoolController

_Lowered = list[tuple[LibController, int]]
"""Libraries, with the number of threads that each had."""


class _Shared:
    """Libraries whose count is the process's, lowered while any thread is in a block."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.lowered: _Lowered = []


_shared = _Shared()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run a block with one thread in every BLAS that is loaded, whatever other threads enter or leave meanwhile.

    torch's threads are others: see `models.load.threads`.
    """
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    own = _lowered([library for library in found if _is_per_thread(library)])
    with _shared.lock:
        # A library that was loaded since an outer block began is met here.
        _shared.lowered += _lowered([library for library in found if not _is_per_thread(library)])
        _shared.inside += 1
    try:
        yield
    finally:
        with _shared.lock:
            _shared.inside -= 1
            if _shared.inside == 0:
                _put_back(_shared.lowered)
        _put_back(own)


def _lowered(libraries: list[LibController]) -> _Lowered:
    before = [(library, library.num_threads) for library in libraries if library.num_threads not in (None, 1)]
    for library, _ in before:
        _set(library, 1)
    return before


def _put_back(lowered: _Lowered) -> None:
    while lowered:
        _set(*lowered.pop())


def _is_per_thread(library: LibController) -> bool:
    """OpenBLAS on OpenMP keeps a count for each thread that calls it."""
    return getattr(library, "threading_layer", None) == "openmp"


def _set(library: LibController, count: int) -> None:
    # From 3.8 on threadpoolctl lets one thread at a time set OpenBLAS's count and ignores all others in silence.
    release = getattr(library, "clear_controlling_thread", lambda force: None)
    release(force=True)
    library.set_num_threads(count)
    release(force=True)
