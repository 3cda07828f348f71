"""Every deterministic method against fp64 NumPy, on tensors of one and two axes."""

from collections.abc import Callable
from pathlib import Path

import merge_oracles as oracles
import numpy as np
import pytest
from merge_memory import result
from numpy import ndarray

from heredity import merging
from heredity.merging import Method, merge
from heredity.writer import write_checkpoint

W = [0.5, 0.3, -0.2]
CASES: dict[str, tuple[Method, bool, int, Callable[..., ndarray]]] = {
    "linear": (merging.Linear(weight=(0.5, 0.3, 0.4)), False, 3,
               lambda b, m: oracles.linear(m, [0.5, 0.3, 0.4])),
    "linear sum": (merging.Linear(weight=tuple(W), normalize=False), False, 3,
                   lambda b, m: oracles.linear(m, W, False)),
    "slerp": (merging.Slerp(t=0.58), True, 1, lambda b, m: oracles.slerp(b, m, 0.58)),
    "nuslerp": (merging.NuSlerp(weight=(1.0, 3.0)), True, 2, lambda b, m: oracles.nuslerp(b, m, [1, 3])),
    "nuslerp free": (merging.NuSlerp(weight=(1.0, 3.0)), False, 2,
                     lambda b, m: oracles.nuslerp(0 * b, m, [1, 3])),
    "nuslerp rows": (
        merging.NuSlerp(weight=(2.0, 1.0), flatten=False), True, 2,
        lambda b, m: oracles.nuslerp(b, m, [2, 1], -1),
    ),
    "nuslerp rows free": (
        merging.NuSlerp(weight=(2.0, 1.0), flatten=False), False, 2,
        lambda b, m: oracles.nuslerp(0 * b, m, [2, 1], -1),
    ),
    "nuslerp columns": (
        merging.NuSlerp(weight=(2.0, 1.0), flatten=False, row_wise=True), True, 2,
        lambda b, m: oracles.nuslerp(b, m, [2, 1], 0),
    ),
    "multislerp": (merging.MultiSlerp(weight=(1.0, 2.0, 3.0)), True, 3,
                   lambda b, m: oracles.multislerp(b, m, [1, 2, 3])),
    "multislerp free": (merging.MultiSlerp(), False, 3, lambda b, m: oracles.multislerp(0 * b, m, [1, 1, 1])),
    "karcher": (merging.Karcher(), False, 3, lambda b, m: oracles.karcher(m)),
    "model_stock": (merging.ModelStock(), True, 3, oracles.model_stock),
    "model_stock rows": (
        merging.ModelStock(filter_wise=True), True, 3,
        lambda b, m: np.array([oracles.model_stock(r, [x.reshape(-1, b.shape[-1])[i] for x in m])
                               for i, r in enumerate(b.reshape(-1, b.shape[-1]))]).reshape(b.shape),
    ),
    "task_arithmetic": (
        merging.TaskArithmetic(weight=tuple(W), lambda_=0.7), True, 3,
        lambda b, m: oracles.task_arithmetic(b, m, W, 0.7),
    ),
    "passthrough": (merging.Passthrough(scale=0.5), False, 1, lambda b, m: 0.5 * m[0]),
    "centroid": (merging.Centroid(), False, 3, lambda b, m: np.mean(m, 0)),
    "ties": (merging.Ties(weight=tuple(W), density=0.4), True, 3, lambda b, m: oracles.ties(b, m, W, 0.4)),
    "ties whole": (merging.Ties(weight=tuple(W)), True, 3, lambda b, m: oracles.ties(b, m, W, 1.0)),
    "ties one": (merging.Ties(density=0.0001), True, 3, lambda b, m: oracles.ties(b, m, [1, 1, 1], 0.0001)),
    "breadcrumbs": (
        merging.Breadcrumbs(weight=tuple(W), density=0.5, gamma=0.1), True, 3,
        lambda b, m: oracles.breadcrumbs(b, m, W, 0.5, 0.1),
    ),
    "breadcrumbs crowded": (
        merging.Breadcrumbs(weight=tuple(W), density=0.95, gamma=0.3), True, 3,
        lambda b, m: oracles.breadcrumbs(b, m, W, 0.95, 0.3),
    ),
    "breadcrumbs_ties": (
        merging.BreadcrumbsTies(weight=tuple(W), density=0.5, gamma=0.1), True, 3,
        lambda b, m: oracles.breadcrumbs_ties(b, m, W, 0.5, 0.1),
    ),
    "sce": (merging.Sce(select_topk=0.3), True, 3, lambda b, m: oracles.sce(b, m, 0.3)),
    "sce whole": (merging.Sce(), True, 3, lambda b, m: oracles.sce(b, m, 1.0)),
    "nearswap": (merging.NearSwap(t=0.02), True, 1, lambda b, m: oracles.nearswap(b, m, 0.02)),
    "arcee_fusion": (merging.ArceeFusion(), True, 1, oracles.arcee_fusion),
    "ram": (merging.Ram(epsilon=0.03), True, 3, lambda b, m: oracles.ram(b, m, 0.03)),
    "ramplus_tl": (
        merging.RamplusTl(epsilon=0.03, r=0.5), True, 3,
        lambda b, m: oracles.ramplus_tl(b, m, 0.5, 0.2, 0.03),
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", [(37,), (13, 29)])
@pytest.mark.parametrize("case", CASES)
def test_method_equals_its_fp64_oracle(case: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    method, based, count, oracle = CASES[case]
    generator = np.random.default_rng(len(case))
    base = (0.1 * generator.normal(size=shape)).astype(np.float32)
    models = [base + (0.03 * generator.normal(size=shape)).astype(np.float32) for _ in range(count)]
    opened = [write_checkpoint(tmp_path / str(i), {"w": (w, "F32")}) for i, w in enumerate([base, *models])]
    prepared = merge(method, opened[1:], opened[0] if based else None)
    result = np.concatenate(list(prepared.blocks("w"))).reshape(shape)
    expected = oracle(base.astype(np.float64), [m.astype(np.float64) for m in models])
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize(
    ("density", "gamma"), [(0.25, 0.0), (0.25, 0.25), (0.5, 0.1), (0.01, 0.0), (0.05, 0.25), (0.4, 0.3)]
)
def test_ties_at_a_threshold_go_by_lowest_index(
    density: float, gamma: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heredity.merging._blocks.BLOCK", block)
    monkeypatch.setattr("heredity.merging._blocks._LEAST", 1)
    base = np.zeros(320, np.float32)
    steps = np.array([1, -2, 2, np.nextafter(np.float32(2), np.float32(3)), 1, 3, 2, -1], np.float32)
    model = np.concatenate([np.repeat(steps, 20), np.random.default_rng(0).permutation(np.repeat(steps, 20))])
    found = result(merging.Breadcrumbs(density=density, gamma=gamma), [model], base)
    np.testing.assert_array_equal(found, oracles.band(model, density, gamma))
