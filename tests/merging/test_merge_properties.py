"""What must hold for every method, found by its file; and what must hold where a method allows it."""

import importlib
import inspect
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_memory import prepared, result
from numpy import ndarray

from heredity import merging
from heredity.errors import ConfigError
from heredity.merging import DataMethod, Method, SpanMethod, _discovery

NAMES = _discovery.names()
ANY = settings(max_examples=15, deadline=None, derandomize=True)
NEEDED: dict[str, dict[str, Any]] = {"slerp": {"t": 0.4}, "nearswap": {"t": 0.05}}
HOMOGENEOUS = (
    "breadcrumbs", "breadcrumbs_ties", "centroid", "dare_linear", "dare_ties", "della", "della_linear",
    "karcher",
    "linear", "model_stock", "multislerp", "nuslerp", "passthrough", "slerp", "task_arithmetic", "ties",
)  # fmt: skip
SYMMETRIC = (
    "breadcrumbs", "breadcrumbs_ties", "centroid", "karcher", "linear", "model_stock", "multislerp", "ram",
    "ramplus_tl", "sce", "task_arithmetic", "ties", "nuslerp",
)  # fmt: skip


def made(name: str, **fields: Any) -> Method:
    """Return a method with thinning switched on where it has any."""
    kind = _discovery.method(name)
    known = kind.__struct_encode_fields__
    default = {"density": 0.6} if "density" in known and name != "task_arithmetic" else {}
    return msgspec.convert({**NEEDED.get(name, {}), **default, **fields}, kind)


def drawn(seed: int, count: int, shape: tuple[int, ...] = (7, 11)) -> tuple[ndarray, list[ndarray]]:
    generator = np.random.default_rng(seed)
    base = generator.normal(size=shape).astype(np.float32)
    return base, [base + 0.3 * generator.normal(size=shape).astype(np.float32) for _ in range(count)]


def case(name: str, seed: int) -> tuple[ndarray | None, list[ndarray]]:
    inputs = _discovery.method(name).inputs
    base, models = drawn(seed, inputs.most or max(inputs.least, 3))
    return (None if inputs.base == "ignored" else base), models


def test_all_methods_of_the_contract_are_there() -> None:
    assert len(NAMES) == 23


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_a_method(name: str) -> None:
    module, kind = importlib.import_module(f"heredity.merging.{name}"), _discovery.method(name)
    assert "Source" in (module.__doc__ or "")
    assert kind.__doc__
    assert not inspect.isabstract(kind)
    assert getattr(merging, kind.__name__) is kind
    assert _discovery.name_of(kind) == name
    method = made(name)
    again = msgspec.convert(msgspec.to_builtins(method), kind)
    assert again == method
    assert hash(again) == hash(method)
    with pytest.raises(msgspec.ValidationError, match="densty"):
        msgspec.convert({**NEEDED.get(name, {}), "densty": 1}, kind)
    with pytest.raises(AttributeError):
        setattr(method, kind.__struct_fields__[0] if kind.__struct_fields__ else "t", 1)


@pytest.mark.parametrize("name", [n for n in NAMES if not issubclass(_discovery.method(n), DataMethod)])
class TestEveryMethod:
    @ANY
    @given(seed=st.integers(0, 10**6))
    def test_copies_of_one_model_merge_to_it(self, name: str, seed: int) -> None:
        base, models = case(name, seed)
        one = models[0]
        merged = result(made(name), [one] * len(models), None if base is None else one)
        np.testing.assert_allclose(merged, one, rtol=2e-6, atol=1e-7)

    @ANY
    @given(seed=st.integers(0, 10**6))
    def test_it_is_a_function_of_its_inputs_and_seed(self, name: str, seed: int) -> None:
        base, models = case(name, seed)
        first, second = (result(made(name), models, base, seed) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert np.isfinite(first).all()

    @ANY
    @given(seed=st.integers(0, 10**6), shape=st.sampled_from([(1,), (1, 1), (5,), (3, 1), (1, 4), (2, 3, 4)]))
    def test_any_shape(self, name: str, seed: int, shape: tuple[int, ...]) -> None:
        inputs = _discovery.method(name).inputs
        base, models = drawn(seed, inputs.most or max(inputs.least, 3), shape)
        merged = result(made(name), models, None if inputs.base == "ignored" else base)
        assert merged.shape == shape
        assert np.isfinite(merged).all()

    def test_empty_and_zero_tensors(self, name: str) -> None:
        base, models = case(name, 0)
        for shape in ((0,), (0, 3), (4, 4)):
            zero = np.zeros(shape, np.float32)
            merged = result(made(name), [zero] * len(models), None if base is None else zero)
            np.testing.assert_array_equal(merged, zero)

    def test_blocks_of_any_size_give_the_same_result(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base, models = case(name, 5)
        whole = result(made(name), models, base)
        monkeypatch.setattr("heredity.merging._blocks.BLOCK", 16)
        monkeypatch.setattr("heredity.merging._sum.BLOCK", 16)
        monkeypatch.setattr("heredity.merging._blocks._LEAST", 16)
        np.testing.assert_allclose(result(made(name), models, base), whole, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", HOMOGENEOUS)
@ANY
@given(seed=st.integers(0, 10**6), factor=st.sampled_from([-1.0, -4.0, 0.25, 2.0]))
def test_scaling_and_negating_all_inputs_scales_and_negates_the_result(
    name: str, seed: int, factor: float
) -> None:
    base, models = case(name, seed)
    plain = result(made(name), models, base)
    scaled = result(
        made(name),
        [np.float32(factor) * m for m in models],
        None if base is None else np.float32(factor) * base,
    )
    np.testing.assert_allclose(scaled, factor * plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SYMMETRIC)
@ANY
@given(seed=st.integers(0, 10**6))
def test_order_does_not_matter_with_equal_weights(name: str, seed: int) -> None:
    base, models = case(name, seed)
    forward, backward = result(made(name), models, base), result(made(name), models[::-1], base)
    np.testing.assert_allclose(forward, backward, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("slerp", {"t": 0}), ("nearswap", {"t": 0}), ("nuslerp", {"weight": [0, 0.0]})]
    + [
        (n, {"lambda": 0})
        for n in NAMES
        if "lambda" in _discovery.method(n).__struct_encode_fields__
    ],
)  # fmt: skip
@ANY
@given(seed=st.integers(0, 10**6))
def test_zero_gives_the_base(name: str, fields: dict[str, Any], seed: int) -> None:
    base, models = case(name, seed)
    if name == "nuslerp":
        fields = {"weight": [1, 0]}
        models[0] = np.asarray(base)  # all weight on a copy of the base
    np.testing.assert_allclose(result(made(name, **fields), models, base), base, rtol=1e-6, atol=1e-6)


@ANY
@given(seed=st.integers(0, 10**6), t=st.floats(0, 1))
def test_slerp_keeps_the_norm_between_equal_norms_and_mirrors(seed: int, t: float) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=(2, 6, 8)).astype(np.float32)
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    there, back = result(merging.Slerp(t=t), [a, b], None), result(merging.Slerp(t=1 - t), [b, a], None)
    np.testing.assert_allclose(there, back, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(there) == pytest.approx(np.linalg.norm(a), rel=1e-5)


@pytest.mark.parametrize("name", [n for n in NAMES if issubclass(_discovery.method(n), SpanMethod)])
def test_a_span_methods_point_is_its_result(name: str) -> None:
    base, models = case(name, 3)
    merge = prepared(made(name), models, base)
    row = merge.point().for_tensor("w")
    stored = [checkpoint.read("w") for checkpoint in merge.checkpoints.values()]
    expected = sum(c * w for c, w in zip(row, stored, strict=True))
    np.testing.assert_allclose(result(made(name), models, base), expected, rtol=1e-5, atol=1e-6)


def test_methods_outside_the_span_have_no_point() -> None:
    base, models = drawn(0, 2)
    with pytest.raises(ConfigError, match="ties treats the elements of w differently"):
        prepared(merging.Ties(), models, base).point()


@ANY
@given(seed=st.integers(0, 10**6), density=st.floats(0.05, 0.95))
def test_dare_keeps_its_share_and_the_l1_norm(seed: int, density: float) -> None:
    base, models = drawn(seed, 1, (64, 128))
    delta = models[0] - base
    kept = result(merging.DareLinear(density=density), models, base, seed) - base
    assert (kept != 0).mean() == pytest.approx(density, abs=5 * np.sqrt(density * (1 - density) / delta.size))
    assert np.abs(kept).sum() == pytest.approx(np.abs(delta).sum(), rel=1e-3)


def test_masks_of_different_models_tensors_and_seeds_are_independent() -> None:
    base = np.zeros((256, 256), np.float32)
    models = [base + 1, base + 1]
    both = result(merging.DareLinear(density=0.5, rescale=False), models, base)
    assert [(both == k).mean() for k in (0, 1, 2)] == pytest.approx([0.25, 0.5, 0.25], abs=0.01)
    first, second = (result(merging.DareLinear(density=0.5), models[:1], base, seed) != 0 for seed in (0, 1))
    assert (first & second).mean() == pytest.approx(0.25, abs=0.01)
    for shift in (1, 2, 256):  # no pattern along rows or columns
        mask = first.ravel()
        assert (mask[shift:] & mask[:-shift]).mean() == pytest.approx(0.25, abs=0.01)


def test_della_keeps_large_elements_more_often() -> None:
    generator = np.random.default_rng(0)
    base = np.zeros((400, 100), np.float32)
    model = np.abs(generator.normal(size=base.shape)).astype(np.float32)
    kept = result(merging.DellaLinear(density=0.5, epsilon=0.3, rescale=False), [model], base) != 0
    ranks = np.argsort(np.argsort(model, axis=1), axis=1)
    for low in (0, 40, 90):
        expected = 0.2 + 0.6 * (low + 4.5) / 99
        assert kept[(ranks >= low) & (ranks < low + 10)].mean() == pytest.approx(expected, abs=0.03)
    with pytest.raises(ConfigError, match=r"leaves \(0, 1\)"):
        result(merging.Della(density=0.9), [model], base)


def test_regmean_and_fisher_equal_their_oracles(tmp_path: Any) -> None:
    import merge_oracles as oracles

    from heredity.statistics import write_statistics

    generator = np.random.default_rng(0)
    models = [generator.normal(size=(5, 7)).astype(np.float32) for _ in range(3)]
    inputs = [generator.normal(size=(50, 7)) for _ in range(3)]
    grams = [x.T @ x / 50 for x in inputs]
    information = [generator.uniform(0.1, 1, size=(5, 7)) for _ in range(3)]
    files = [
        str(
            write_statistics(
                tmp_path / f"{i}.safetensors", input_grams={"w": grams[i]}, fisher={"w": information[i]}
            )
        )
        for i in range(3)
    ]
    found = result(merging.RegMean(statistics=tuple(files), ridge=0), models, None)
    np.testing.assert_allclose(found, oracles.regmean(models, grams, 0.9), rtol=1e-4, atol=1e-5)
    found = result(merging.Fisher(statistics=tuple(files)), models, None)
    np.testing.assert_allclose(found, oracles.fisher(models, information), rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="a statistics file for each of 3 models, got 0"):
        result(merging.RegMean(), models, None)
