"""What a merge writes: whole or not at all, resumable to the same bytes, verified by its lock."""

import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from merge_pico import family, read

from heredity import merging
from heredity.checkpoint import Checkpoint
from heredity.errors import CheckpointError, ConfigError, DiskFullError, MismatchError
from heredity.merging import Merge, merge
from heredity.merging.output import LOCK, check_agreed, plan_record
from heredity.merging.tables import layers_table
from heredity.merging.verify import read_lock, verify
from heredity.point import weighted
from heredity.writer import write_checkpoint


def contents(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


def test_a_point_and_a_written_merge_are_the_same_bits(tmp_path: Path) -> None:
    family(tmp_path, models=2)
    prepared = merge(merging.Slerp(t=0.58), [tmp_path / "a", tmp_path / "b"])
    out = Checkpoint.open(prepared.save(tmp_path / "out"))
    point = prepared.point()
    for name, info in out.tensors.items():
        poured = weighted(point, prepared.checkpoints, name, 0, info.size)
        np.testing.assert_array_equal(poured, out.read(name).ravel())


def test_one_gram_serves_every_t(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family(tmp_path, models=2)
    prepared = merge(merging.Slerp(t=0.0), [tmp_path / "a", tmp_path / "b"])
    prepared.coefficients()
    monkeypatch.setattr("heredity.merging.engine.measure", None)  # a second pass would fail
    points = [prepared.using(merging.Slerp(t=t / 10)).point() for t in range(11)]
    assert points[0].for_tensor("lm_head.weight").tolist() == [1, 0]
    assert points[10].for_tensor("lm_head.weight") == pytest.approx([0, 1])


def test_the_folder_holds_config_card_lock_and_recipe(tmp_path: Path) -> None:
    family(tmp_path, models=2, dtype="BF16")
    (tmp_path / "a" / "tokenizer.json").write_text("{}")
    (tmp_path / "a" / "chat_template.jinja").write_text("hello")
    merge(merging.Slerp(t=0.25), [tmp_path / "a", tmp_path / "b"]).save(tmp_path / "out", shard_bytes=4000)
    out = Checkpoint.open(tmp_path / "out")
    assert len(out.files) > 1
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "hello"
    assert 'base_model: ["a", "b"]' in (tmp_path / "out" / "README.md").read_text()
    lock = read_lock(tmp_path / "out")
    assert lock["tensors"]["lm_head.weight"]["t"] == pytest.approx(0.25, abs=0.01)
    layers = layers_table(lock)
    assert layers["layer"].to_list() == [0, 1, 2, None]
    assert layers["tensors"].sum() == len(out.tensors)
    assert not list((tmp_path / "out").glob(".*"))


def test_the_donor_is_explicit(tmp_path: Path) -> None:
    family(tmp_path, models=2)
    for name in ("base", "a", "b"):
        (tmp_path / name / "tokenizer.json").write_text(name)
    method, models = merging.TaskArithmetic(), [tmp_path / "a", tmp_path / "b"]
    merge(method, models, tmp_path / "base").save(tmp_path / "x")
    merge(method, models, tmp_path / "base").save(tmp_path / "y", donor=tmp_path / "b")
    assert (tmp_path / "x" / "tokenizer.json").read_text() == "base"
    assert (tmp_path / "y" / "tokenizer.json").read_text() == "b"


def test_stale_files_never_survive(tmp_path: Path) -> None:
    family(tmp_path, models=2)
    prepared = merge(merging.Linear(), [tmp_path / "a", tmp_path / "b"])
    prepared.save(tmp_path / "out", shard_bytes=3000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    with pytest.raises(ConfigError, match="not empty"):
        prepared.save(tmp_path / "out")
    prepared.save(tmp_path / "out", overwrite=True)
    assert [f.name for f in (tmp_path / "out").glob("*.safetensors*")] == ["model.safetensors"]


def test_threads_give_the_same_bytes(tmp_path: Path) -> None:
    family(tmp_path, models=3)
    prepared = merge(merging.DareTies(density=0.5), [tmp_path / n for n in "abc"], tmp_path / "base", seed=3)
    prepared.save(tmp_path / "x" / "out", shard_bytes=3000)
    prepared.save(tmp_path / "y" / "out", shard_bytes=3000, jobs=3)
    assert contents(tmp_path / "x" / "out") == contents(tmp_path / "y" / "out")


def test_masks_depend_on_the_seed_alone(tmp_path: Path) -> None:
    family(tmp_path, models=2)
    found = []
    for out, seed in (("x", 0), ("y", 0), ("z", 1)):
        prepared = merge(
            merging.DareLinear(density=0.5), [tmp_path / "a", tmp_path / "b"], tmp_path / "base", seed=seed
        )
        found.append(read(Checkpoint.open(prepared.save(tmp_path / out)))["lm_head.weight"])
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).mean() > 0.5


def test_verify_finds_changed_outputs_and_changed_models(tmp_path: Path) -> None:
    family(tmp_path, models=2)
    prepared = merge(merging.Ties(density=0.5), [tmp_path / "a", tmp_path / "b"], tmp_path / "base")
    out = prepared.save(tmp_path / "out", hash_inputs=True)
    verdict = verify(out, tensors=50)
    assert len(verdict.tensors) == len(prepared.plan.weights)
    assert len(verdict.inputs) == 3
    shard = out / "model.safetensors"
    original = shard.read_bytes()
    shard.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: blake3:"):
        verify(out)
    shard.write_bytes(original)
    model = tmp_path / "b" / "model.safetensors"
    data = model.read_bytes()
    model.write_bytes(data[:-200] + bytes(200))
    with pytest.raises(CheckpointError, match="blake3:"):
        verify(out)
    with pytest.raises(CheckpointError, match="is not what the recipe makes"):
        verify(out, inputs=False, tensors=50)


def test_inputs_that_change_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family(tmp_path, models=2)
    prepared = merge(merging.Linear(), [tmp_path / "a", tmp_path / "b"])
    agreed = plan_record(prepared)
    check_agreed(prepared, json.loads(json.dumps(agreed)), tmp_path / "plan.json")

    def touch(name: str, nbytes: int) -> None:
        os.utime(tmp_path / "b" / "model.safetensors", ns=(1, 1))

    with pytest.raises(CheckpointError, match="changed while it was merged"):
        prepared.save(tmp_path / "out", progress=touch)
    with pytest.raises(MismatchError, match="changed since it was planned"):
        check_agreed(prepared, json.loads(json.dumps(agreed)), tmp_path / "plan.json")
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_full_disk_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family(tmp_path, models=2)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(DiskFullError, match="free"):
        merge(merging.Linear(), [tmp_path / "a", tmp_path / "b"]).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shapes_and_names_that_differ_are_named(tmp_path: Path) -> None:
    first = write_checkpoint(tmp_path / "x", {"w": (np.zeros((2, 3), np.float32), "F32")})
    other = write_checkpoint(tmp_path / "y", {"w": (np.zeros((3, 3), np.float32), "F32")})
    third = write_checkpoint(tmp_path / "z", {"v": (np.zeros((2, 3), np.float32), "F32")})
    with pytest.raises(MismatchError, match=r"tensor w: \[2, 3\] in .*x.*, \[3, 3\] in .*y"):
        merge(merging.Linear(), [first, other])
    with pytest.raises(MismatchError, match="has no tensor w"):
        merge(merging.Linear(), [first, third])


def test_a_weight_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    good = write_checkpoint(tmp_path / "x", {"w": (np.ones(8, np.float32), "F32")})
    bad = write_checkpoint(tmp_path / "y", {"w": (np.full(8, np.nan, np.float32), "F32")})
    with pytest.raises(CheckpointError, match=r"y/model\.safetensors: tensor w holds NaN"):
        merge(merging.Slerp(t=0.5), [good, bad]).point()


def test_killed_anywhere_it_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    family(tmp_path, models=2, layers=1)
    prepared = merge(merging.Ties(density=0.5), [tmp_path / "a", tmp_path / "b"], tmp_path / "base")
    whole = contents(prepared.save(tmp_path / "whole" / "out", shard_bytes=2500))
    last = _events(prepared, tmp_path / "counted" / "out", tmp_path / "count")
    assert last > 60
    points = sorted(np.random.default_rng(0).choice(last - 10, 26, replace=False).tolist())
    for point in points:
        out = tmp_path / f"killed at {point}" / "out"
        assert _killed(prepared, out, point)
        if (out / "config.json").exists():
            Checkpoint.open(out)  # loadable: then it is the right one
        prepared.save(out, shard_bytes=2500, resume=True)
        assert contents(out) == whole, f"killed before step {point} of {last}"


def _events(prepared: Merge, out: Path, counted: Path) -> int:
    """Return how many steps a merge takes at which a kill could leave something half done."""
    _killed(prepared, out, -1, counted)
    return int(counted.read_text())


def _killed(prepared: Merge, out: Path, point: int, counted: Path | None = None) -> bool:
    """Fork a process that merges and kills itself before its n-th flush, rename, removal or block."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the child computes and never returns to the threads
        child = os.fork()
    if child == 0:
        count = 0

        def step(*_: object) -> None:
            nonlocal count
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        def stepping(function: Callable[..., object]) -> Callable[..., object]:
            def call(*given: object, **named: object) -> object:
                step()
                return function(*given, **named)

            return call

        try:
            os.fsync, os.replace, os.unlink = stepping(os.fsync), stepping(os.replace), stepping(os.unlink)  # type: ignore[assignment]
            prepared.save(out, shard_bytes=2500, resume=True, progress=step)
            if counted is not None:
                counted.write_text(str(count))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_lock_of_another_schema_is_refused(tmp_path: Path) -> None:
    family(tmp_path, models=2)
    out = merge(merging.Linear(), [tmp_path / "a", tmp_path / "b"]).save(tmp_path / "out")
    lock = json.loads((out / LOCK).read_text())
    (out / LOCK).write_text(json.dumps({**lock, "schema": 1}))
    with pytest.raises(ConfigError, match="schema 1, not 2"):
        verify(out)
