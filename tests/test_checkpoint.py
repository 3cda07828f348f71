"""Checkpoints: every format and layout reads exactly; damaged files are refused, with what and where."""

import json
import pickle
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heredity import Checkpoint
from heredity.checkpoint import allowing_pickles
from heredity.errors import CheckpointError
from pico import encode, make_family, stored, write_file, write_model, write_raw

DTYPES = ("F32", "BF16", "F16", "F8_E4M3", "F8_E5M2", "F64")
W = np.random.default_rng(0).normal(size=(37, 53)).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", [0, 3])
def test_every_dtype_decodes_exactly(tmp_path, dtype, padding):
    write_file(tmp_path / "x.safetensors", {"first": W[:1, :3], "w": W}, dtype, padding)
    checkpoint = Checkpoint.open(tmp_path / "x.safetensors")
    assert checkpoint.tensors["w"].shape == (37, 53)
    assert np.array_equal(checkpoint.read("w"), stored(W, dtype).astype(np.float32))
    assert np.array_equal(checkpoint.block("w", 7, 1000), stored(W, dtype).astype(np.float32).ravel()[7:1000])
    assert checkpoint.raw("w").tobytes() == encode(W, dtype)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E4M3", "F8_E5M2"])
def test_every_bit_pattern_decodes(dtype):
    from heredity.kernels.decode import decode

    if dtype.startswith("F8"):
        from pico import eight_bits

        raw, expected = np.arange(256, dtype=np.uint8), eight_bits(dtype).astype(np.float32)
    else:
        words = np.arange(65536, dtype=np.uint16)
        raw = words.view(np.uint8)
        expected = (
            words.view(np.float16).astype(np.float32)
            if dtype == "F16"
            else (words.astype(np.uint32) << 16).view("f4")
        )
    found = decode(raw, dtype)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(
        np.signbit(found), np.signbit(expected) & ~np.isnan(expected) | np.signbit(found) & np.isnan(expected)
    )


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_encode_rounds_to_nearest_even(dtype):
    from heredity.kernels.encode import encode as ours
    from heredity.kernels.encode import overflows

    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, size=200_000, dtype=np.uint64).astype(np.uint32)
    values = np.concatenate(
        [bits.view(np.float32), np.float32([0, -0.0, np.inf, -np.inf, 65504, 65519.9, 65520, 1e-8])]
    )
    values = values[~np.isnan(values)]
    with np.errstate(over="ignore"):
        assert ours(values, dtype).tobytes() == encode(values, dtype)
    assert np.isnan(stored_of(ours(np.float32([np.nan]), dtype), dtype)).all()
    assert overflows(np.float32([65520, -65520, 65519, np.inf]), "F16") == 2


def stored_of(raw, dtype):
    return (
        raw.view(np.float16)
        if dtype == "F16"
        else (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    )


def test_sharded_equals_single(tmp_path):
    weights = make_family(tmp_path / "one").values["base"]
    write_model(tmp_path / "many", {n: w.astype(np.float32) for n, w in weights.items()}, shards=3)
    many = Checkpoint.open(tmp_path / "many")
    assert list(many.tensors) == sorted(weights)
    assert len(many.files) == 3
    assert all(np.array_equal(many.read(n), w) for n, w in weights.items())


def test_checkpoint_pickles_and_renames(tmp_path):
    write_model(tmp_path / "m", {"a.w": W})
    again = pickle.loads(pickle.dumps(Checkpoint.open(tmp_path / "m")))
    assert np.array_equal(again.read("a.w"), W)
    assert np.array_equal(again.renamed({"b.w": "a.w"}).read("b.w"), W)


def test_safetensors_library_reads_what_we_read(tmp_path):
    from safetensors.numpy import save_file

    save_file({"w": W, "b": W[0]}, tmp_path / "model.safetensors")
    assert np.array_equal(Checkpoint.open(tmp_path).read("w"), W)


def entry(shape, offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BROKEN = {
    "truncated": ({"w": entry([4], [0, 16])}, b"\0" * 12, "w.*truncated"),
    "too long": ({"w": entry([2], [0, 8])}, b"\0" * 12, "belong to none"),
    "size": ({"w": entry([3], [0, 16])}, b"\0" * 16, "w: F32.*needs 12 bytes"),
    "overlap": ({"a": entry([4], [0, 16]), "b": entry([2], [8, 16])}, b"\0" * 16, "overlap"),
    "hole": ({"a": entry([2], [0, 8]), "b": entry([1], [12, 16])}, b"\0" * 16, "hole"),
    "backwards": ({"a": entry([2], [8, 0])}, b"\0" * 16, "not a range"),
    "negative": ({"a": entry([-2], [0, 8])}, b"\0" * 8, "not a list of sizes"),
    "bool shape": ({"a": entry([True], [0, 4])}, b"\0" * 4, "not a list of sizes"),
    "huge": ({"a": entry([2**40, 2**40], [0, 8])}, b"\0" * 8, "needs"),
    "dtype": ({"a": entry([2], [0, 8], "F7")}, b"\0" * 8, "F7"),
    "fields": ({"a": {"dtype": "F32"}}, b"", "must have"),
    "metadata": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_damaged_headers_are_refused(tmp_path, case):
    header, data, message = BROKEN[case]
    write_raw(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoint.open(tmp_path)
    assert "model.safetensors" in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\0",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 3) + b"{x}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 14) + b'{"a":1,"a":2} ',
        struct.pack("<Q", 2) + b"\xff\xff",
    ],
)
def test_files_that_are_not_safetensors(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError):
        Checkpoint.open(tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_never_crash(tmp_path, data):
    path = tmp_path / "f.safetensors"
    write_file(path, {"a": W[:2, :3], "b": W[:1]}, "BF16")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        checkpoint = Checkpoint.open(path)
    except CheckpointError:
        return
    for name, info in checkpoint.tensors.items():
        if info.dtype in DTYPES:
            assert checkpoint.read(name).shape == info.shape


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/x.safetensors", "a/../../x", "a\\..\\x", "", 3])
def test_index_cannot_leave_its_folder(tmp_path, file):
    write_file(tmp_path / "x.safetensors", {"w": W})
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": file}}))
    with pytest.raises(CheckpointError, match="outside the folder"):
        Checkpoint.open(folder)


def test_missing_shards_and_tensors_are_named(tmp_path):
    write_model(tmp_path, {"a": W, "b": W}, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["c"] = content["weight_map"]["a"]
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"00001-of-00002.safetensors: lacks tensor c"):
        Checkpoint.open(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002.safetensors: the shard is missing"):
        Checkpoint.open(tmp_path)


def test_pickles_are_never_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(CheckpointError, match="pickled") as caught:
        Checkpoint.open(tmp_path)
    assert "--allow-pickle-weights" in caught.value.hint
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "consolidated.00.pth")
    with allowing_pickles(), pytest.raises(CheckpointError, match="pickled") as caught:
        Checkpoint.open(tmp_path)
    assert "only pytorch_model.bin" in caught.value.hint


def test_a_file_cut_short_while_open_is_an_error(tmp_path):
    write_model(tmp_path, {"w": W})
    checkpoint = Checkpoint.open(tmp_path)
    with checkpoint.reading("w") as reader:
        content = (tmp_path / "model.safetensors").read_bytes()
        with (tmp_path / "model.safetensors").open("r+b") as file:
            file.truncate(len(content) - 100)
        with pytest.raises(CheckpointError, match="cut short"):
            reader.read(0, W.size)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        Checkpoint.open(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="not in the Hub cache"):
        Checkpoint.open("nobody/nothing@main", offline=True)
    write_model(tmp_path, {"w": W})
    with pytest.raises(CheckpointError, match="has no tensor v"):
        Checkpoint.open(tmp_path).read("v")


def test_hub_cache_is_used_offline(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    import huggingface_hub.constants

    snapshot = tmp_path / "models--org--m" / "snapshots" / ("a" * 40)
    write_model(snapshot, {"w": W}, config={"model_type": "llama"})
    (tmp_path / "models--org--m" / "refs").mkdir()
    (tmp_path / "models--org--m" / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for ref in ("org/m", "org/m@main"):
        found = Checkpoint.open(ref, offline=True)
        assert found.name == "m"
        assert np.array_equal(found.read("w"), W)
