"""One BLAS thread for as long as anyone needs it, and what there was before afterwards."""

import threading

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from heredity.blas import one_blas_thread


def counts() -> list[int]:
    return [library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()]


@pytest.fixture(autouse=True)
def two_threads():
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        if not counts() or set(counts()) != {2}:
            pytest.skip("this numpy's BLAS knows one thread only")
        yield


def test_nested_blocks_keep_one_thread_until_the_outermost_ends() -> None:
    with one_blas_thread():
        with one_blas_thread():
            assert set(counts()) == {1}
        assert set(counts()) == {1}
    assert set(counts()) == {2}


def test_an_error_puts_the_count_back() -> None:
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        raise ZeroDivisionError
    assert set(counts()) == {2}


def test_overlapping_workers_leave_nothing_lowered() -> None:
    """The first to enter leaves first: the second, who found one thread, must not put that back."""
    entered, leave = threading.Event(), threading.Event()

    def second() -> None:
        with one_blas_thread():
            entered.set()
            leave.wait()

    worker = threading.Thread(target=second)
    with one_blas_thread():
        worker.start()
        entered.wait()
    assert set(counts()) == {1}  # the second is still at work
    leave.set()
    worker.join()
    assert set(counts()) == {2}


def test_a_product_has_the_same_bits_whatever_the_process_is_set_to() -> None:
    draw = np.random.default_rng(0)
    left, right = draw.standard_normal((50, 48)), draw.standard_normal((48, 768))
    found = []
    for count in (1, 2):
        with ThreadpoolController().limit(limits=count, user_api="blas"), one_blas_thread():
            found.append(left @ right)
    np.testing.assert_array_equal(found[0], found[1], strict=True)
