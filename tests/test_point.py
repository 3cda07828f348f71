"""Points: weighted sums of raw weights, streamed, against float64."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heredity import Checkpoint, Point
from heredity.errors import ConfigError, MismatchError
from heredity.point import weighted
from pico import stored, write_adapter, write_file, write_model

DTYPES = ("F32", "BF16", "F16", "F8_E4M3", "F8_E5M2", "F64")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 10**6),
    st.lists(st.sampled_from(DTYPES), min_size=1, max_size=6),
    st.integers(1, 20_000),
    st.data(),
)
def test_weighted_sum_of_any_formats(tmp_path, seed, dtypes, size, data):
    rng = np.random.default_rng(seed)
    held, checkpoints = [], {}
    for i, dtype in enumerate(dtypes):
        row = rng.normal(size=size).astype(np.float32)
        write_file(tmp_path / f"{i}.safetensors", {"w": row}, dtype)
        held.append(stored(row, dtype))
        checkpoints[f"m{i}"] = Checkpoint.open(tmp_path / f"{i}.safetensors")
    c = rng.normal(size=len(dtypes))
    point = Point(tuple(checkpoints), c)
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    found = weighted(point, checkpoints, "w", start, stop)
    exact = (c[:, None] * np.stack(held)).sum(axis=0)
    assert np.allclose(found, exact[start:stop], rtol=0, atol=2e-6 * (np.abs(c) @ np.abs(held)).max())
    assert np.array_equal(
        found, weighted(point, checkpoints, "w", 0, size)[start:stop]
    )  # any range, the same bits


def test_one_member_is_copied_bit_for_bit(tmp_path):
    row = np.float32([0.0, -0.0, 1e-45, -3.5, 65504, 1e38])
    write_model(tmp_path / "a", {"w": row})
    write_model(tmp_path / "b", {"w": row + 1})
    checkpoints = {n: Checkpoint.open(tmp_path / n) for n in "ab"}
    out = np.empty(6, np.float32)
    assert weighted(Point(("a", "b"), [1, 0]), checkpoints, "w", 0, 6, out) is out
    assert out.tobytes() == row.tobytes()
    assert weighted(Point(("a", "b"), [0, 0]), checkpoints, "w", 0, 6).tolist() == [0] * 6


def test_large_tensors_cross_buffers(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 300_001)).astype(np.float32)
    for name, row in zip("abc", rows, strict=True):
        write_model(tmp_path / name, {"w": row}, dtype="BF16")
    checkpoints = {n: Checkpoint.open(tmp_path / n) for n in "abc"}
    held = np.stack([stored(row, "BF16") for row in rows])
    found = weighted(Point(("a", "b", "c"), [0.2, 0.3, 0.5]), checkpoints, "w", 0, 300_001)
    assert np.abs(found - np.array([0.2, 0.3, 0.5]) @ held).max() < 1e-6


def test_adapters_are_weighed_as_the_model_they_make(tmp_path):
    w = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
    write_model(tmp_path / "base", {"model.x.weight": w})
    dense = write_adapter(tmp_path / "lora", {"model.x": (6, 9)})["model.x.weight"]
    base = Checkpoint.open(tmp_path / "base")
    checkpoints = {"base": base, "lora": Checkpoint.open(tmp_path / "lora", base=base)}
    found = weighted(Point(("base", "lora"), [0.5, 0.5]), checkpoints, "model.x.weight", 4, 50)
    assert np.allclose(found, (w + dense / 2).ravel()[4:50], atol=1e-5)


def test_points_per_tensor_and_their_errors(tmp_path):
    point = Point(("a", "b"), {"w": [0.5, 0.5]})
    assert point.for_tensor("w").tolist() == [0.5, 0.5]
    with pytest.raises(MismatchError, match="no coefficients for tensor v"):
        point.for_tensor("v")
    with pytest.raises(ConfigError, match="2 members but coefficients of shape"):
        Point(("a", "b"), [1.0])
    with pytest.raises(ConfigError, match="not finite"):
        Point(("a", "b"), [1.0, np.nan])
    with pytest.raises(ConfigError, match="twice"):
        Point(("a", "a"), [1.0, 0.0])
    with pytest.raises(MismatchError, match="no checkpoint for member a"):
        weighted(point, {}, "w", 0, 1)
    write_model(tmp_path / "a", {"w": np.zeros((2, 3), np.float32)})
    write_model(tmp_path / "b", {"w": np.zeros((3, 2), np.float32)})
    with pytest.raises(
        MismatchError, match=r"tensor w: \[2, 3\] in .*a/model.safetensors, \[3, 2\] in .*b/model"
    ):
        weighted(point, {n: Checkpoint.open(tmp_path / n) for n in "ab"}, "w", 0, 6)
