"""Every execution gives results in order, and errors whole."""

import time

import pytest

from heredity.errors import CheckpointError, ConfigError, ExtraMissingError
from heredity.execute import Processes, Ray, Serial, Threads, choose


def slow_square(x):
    time.sleep(0.01 * (5 - x % 5))
    return x * x


def fail(x):
    raise CheckpointError(f"file {x}", "hint")


@pytest.mark.parametrize("execution", [Serial(), Threads(3), Processes(2)], ids=repr)
def test_order_is_that_of_the_items(execution):
    assert list(execution.map(slow_square, range(12))) == [x * x for x in range(12)]
    assert list(execution.map(slow_square, [])) == []
    with pytest.raises(CheckpointError, match="file 0") as caught:
        list(execution.map(fail, range(3)))
    assert caught.value.hint == "hint"


@pytest.mark.ray
@pytest.mark.filterwarnings("default")  # Ray warns about itself
def test_ray_too():
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'heredity[ray]'")

    def square(x):  # local functions travel whole; the workers cannot import this file
        return x * x

    def failing(x):
        raise CheckpointError(f"file {x}", "hint")

    try:
        assert list(Ray(2).map(square, range(6))) == [x * x for x in range(6)]
        with pytest.raises(CheckpointError, match="file 0"):
            list(Ray(2).map(failing, range(3)))
    finally:
        ray.shutdown()


def test_ray_is_asked_for_by_name_when_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExtraMissingError, match="'ray'"):
        list(Ray(2).map(slow_square, [1]))


def test_few_items_are_ahead():
    taken = []

    def items():
        for x in range(50):
            taken.append(x)
            yield x

    results = Threads(2).map(slow_square, items())
    next(results)
    assert len(taken) <= 5
    results.close()


def test_choice():
    assert choose(1) == Serial()
    assert choose(4) == Threads(4)
    assert choose(2, "local") == Ray(2, None)
    assert choose(2, "host:1") == Ray(2, "host:1")
    with pytest.raises(ConfigError, match="0 jobs"):
        choose(0)
