"""The fused sum writes the bytes that the plain one gives; two tensors are measured as a family is."""

from pathlib import Path

import numpy as np
import pytest
from merge_pico import family

from heredity import merging
from heredity.checkpoint import Checkpoint
from heredity.gram import Gram
from heredity.kernels.encode import encode
from heredity.merging import merge
from heredity.merging._gram import measure
from heredity.writer import write_checkpoint

METHODS = [merging.Linear(weight=(0.3, 0.7)), merging.Slerp(t=0.4), merging.Slerp(t=0.0), merging.Karcher()]


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("step", [1 << 17, 64])
def test_the_written_bytes_are_those_of_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: merging.Method, step: int
) -> None:
    monkeypatch.setattr("heredity.merging._gram._STEP", step)
    monkeypatch.setattr("heredity.merging._sum._STEP", step)
    family(tmp_path, models=2)
    models = [tmp_path / "a", tmp_path / "b"]
    out = Checkpoint.open(merge(method, models).save(tmp_path / "out", dtype="BF16"))
    plain = merge(method, models)
    for name in plain.plan.weights:
        blocks = np.concatenate([encode(block, "BF16").copy() for block in plain.blocks(name)])
        np.testing.assert_array_equal(out.raw(name), blocks)


@pytest.mark.parametrize("dtypes", [("BF16", "BF16"), ("F32", "F16"), ("BF16", "F32")])
def test_two_tensors_are_measured_as_a_family_is(tmp_path: Path, dtypes: tuple[str, str]) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(37, 101)).astype(np.float32)
    moved = values + rng.normal(scale=0.1, size=values.shape).astype(np.float32)
    models = [
        write_checkpoint(tmp_path / name, {"w": (value, dtype)})
        for name, value, dtype in zip("ab", (values, moved), dtypes, strict=True)
    ]
    whole = Gram.compute(dict(zip("ab", models, strict=True)), reference="a", members=["b"])
    expected = whole.tensors["w"]
    found = measure(models, "w")
    np.testing.assert_allclose(found.products, expected.products, rtol=1e-5)
    np.testing.assert_allclose(found.sums, expected.sums, rtol=1e-3)


def test_numbers_that_float32_is_too_narrow_for_are_measured_in_float64(tmp_path: Path) -> None:
    values = np.full((4, 8), 1e-25, np.float32)
    models = [write_checkpoint(tmp_path / n, {"w": (values * k, "F32")}) for n, k in (("a", 1), ("b", 3))]
    found = measure(models, "w")
    np.testing.assert_allclose(found.products, 32e-50 * np.array([[1, 2], [2, 4]]), rtol=1e-5)
