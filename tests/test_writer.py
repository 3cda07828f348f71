"""The writer: what is written is read; interruptions resume to the same bytes; nothing stale survives."""

import json
import os
import stat

import numpy as np
import pytest
from blake3 import blake3

from heredity import Checkpoint
from heredity.errors import CheckpointError, ConfigError, DiskFullError
from heredity.kernels.encode import encode
from heredity.writer import CheckpointWriter, Fill, Planned, plan_shards, write_checkpoint, write_shard
from pico import make_family, stored, write_model

RNG = np.random.default_rng(0)
WEIGHTS = {f"model.layers.{i}.w": RNG.normal(size=(40, 25)).astype(np.float32) for i in range(6)}
PLAN = [Planned(name, "BF16", (40, 25)) for name in WEIGHTS]


def produce(tensor):
    raw = encode(WEIGHTS[tensor.name], tensor.dtype)
    yield raw[:700]
    yield raw[700:]


def write_all(out, **options):
    writer = CheckpointWriter.open(out, PLAN, job="job", shard_bytes=4500, **options)
    for shard in writer.pending():
        writer.add(write_shard(writer.path, shard, produce))
    return writer


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("shard_bytes", [10**9, 5000])
def test_what_is_written_is_read(tmp_path, dtype, shard_bytes):
    arrays = {**WEIGHTS, "scalar": np.float32(3.0).reshape(()), "empty": np.zeros((0, 4), np.float32)}
    found = write_checkpoint(
        tmp_path / "m", {n: (w, dtype) for n, w in arrays.items()}, shard_bytes=shard_bytes
    )
    for name, w in arrays.items():
        assert found.tensors[name].shape == w.shape
        assert np.array_equal(found.read(name), stored(w, dtype).astype(np.float32).reshape(w.shape))
    from safetensors import safe_open

    for file in found.files:  # the reference reader agrees that the file is whole
        with safe_open(file, "numpy") as opened:
            assert opened.metadata() == {"format": "pt"}


def test_finish_copies_the_donor_and_nothing_else(tmp_path):
    donor = make_family(tmp_path / "f", dtype="F32").paths["base"]
    for name in (
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
        "train.log",
        "modeling_evil.py",
    ):
        (donor / name).write_text("{}")
    writer = write_all(tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()  # not loadable before it is finished
    hashes = writer.finish(
        donor=Checkpoint.open(donor), files={"README.md": "card"}, config={"vocab_size": 7}
    )
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    extra = ["README.md", "chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json"]
    assert names == sorted([*extra, *shards, "model.safetensors.index.json"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["vocab_size"], config["dtype"], config["model_type"]) == (7, "bfloat16", "llama")
    for file, digest in hashes.items():
        assert "blake3:" + blake3((tmp_path / "out" / file).read_bytes()).hexdigest() == digest
    assert (
        json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
        == 12_000
    )


def test_interrupted_anywhere_resumes_to_the_same_bytes(tmp_path):
    write_all(tmp_path / "whole").finish(donor=None)
    expected = contents(tmp_path / "whole")
    for stop in range(1, 13):
        count = iter(range(100))

        def failing(tensor, stop=stop, count=count):
            for piece in produce(tensor):
                if next(count) == stop:
                    raise KeyboardInterrupt
                yield piece

        out = tmp_path / f"out{stop}"
        writer = CheckpointWriter.open(out, PLAN, job="job", shard_bytes=4500)
        try:
            for shard in writer.pending():
                writer.add(write_shard(out, shard, failing))
        except KeyboardInterrupt:
            assert not list(out.glob(".model*tmp"))
        (out / ".model-00003-of-00003.safetensors.99.tmp").write_bytes(b"left by a kill")
        with (out / ".heredity-journal.jsonl").open("a") as journal:
            journal.write('{"file": "model-0')
        write_all(out, resume=True).finish(donor=None)
        assert contents(out) == expected


def test_only_the_same_job_resumes(tmp_path):
    write_all(tmp_path / "out")
    with pytest.raises(ConfigError, match="another job"):
        CheckpointWriter.open(tmp_path / "out", PLAN, job="other", shard_bytes=4500, resume=True)
    with pytest.raises(ConfigError, match="another job"):
        CheckpointWriter.open(tmp_path / "out", PLAN[:3], job="job", shard_bytes=4500, resume=True)
    with pytest.raises(ConfigError, match="not empty"):
        CheckpointWriter.open(tmp_path / "out", PLAN, job="job")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x").write_text("mine")
    with pytest.raises(ConfigError, match="no unfinished job"):
        CheckpointWriter.open(tmp_path / "notes", PLAN, job="job", resume=True)


def test_a_shard_that_was_damaged_is_written_again(tmp_path):
    write_all(tmp_path / "out")
    (tmp_path / "out" / "model-00002-of-00003.safetensors").write_bytes(b"short")
    writer = CheckpointWriter.open(tmp_path / "out", PLAN, job="job", shard_bytes=4500, resume=True)
    assert [shard.file for shard in writer.pending()] == ["model-00002-of-00003.safetensors"]


def test_nothing_stale_survives_and_other_files_do(tmp_path):
    write_model(tmp_path / "out", dict(WEIGHTS), shards=4, config={"model_type": "old"})
    for name in ("tokenizer.json", "pytorch_model.bin", "notes.txt", "README.md", "model.safetensors"):
        (tmp_path / "out" / name).write_text("old")
    write_all(tmp_path / "out", overwrite=True).finish(donor=None)
    names = [p.name for p in (tmp_path / "out").iterdir()]
    assert "notes.txt" in names
    assert not {"tokenizer.json", "pytorch_model.bin", "README.md", "config.json", "model.safetensors"} & set(
        names
    )
    assert not [n for n in names if "of-00004" in n]
    assert len(Checkpoint.open(tmp_path / "out").tensors) == 6


def test_file_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_all(tmp_path / "out").finish(donor=None)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out").iterdir()} == {0o640}


def test_wrong_plans_and_pieces(tmp_path):
    with pytest.raises(ConfigError, match="each with its own name"):
        plan_shards([PLAN[0], PLAN[0]], 100)
    with pytest.raises(ConfigError, match="I3"):
        plan_shards([Planned("w", "I3", (1,))], 100)
    writer = CheckpointWriter.open(tmp_path / "out", PLAN, job="job", shard_bytes=4500)
    with pytest.raises(CheckpointError, match=r"model.layers.0.w: 10 bytes for 2000"):
        write_shard(tmp_path / "out", writer.shards[0], lambda tensor: [np.zeros(10, np.uint8)])
    with pytest.raises(CheckpointError, match="not written yet"):
        writer.finish(donor=None)
    assert list((tmp_path / "out").glob("*.safetensors")) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    import errno

    writer = CheckpointWriter.open(tmp_path / "out", PLAN, job="job", shard_bytes=4500)

    def full(tensor):
        yield np.zeros(100, np.uint8)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="disk is full"):
        write_shard(tmp_path / "out", writer.shards[0], full)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".heredity-journal.jsonl"]


def test_what_is_made_in_place_is_what_would_be_given(tmp_path, monkeypatch):
    """Pieces of every alignment: an odd tensor before, ends of buffers inside tensors, other dtypes."""
    monkeypatch.setattr("heredity.directfile._PIECE", 4096)
    values = np.arange(50_000, dtype=np.uint16)
    plan = [Planned("odd", "U8", (3,)), *(Planned(f"w{i}", "BF16", (50_000 - i,)) for i in range(3))]
    plan.insert(2, Planned("gap", "U8", (4095,)))
    shard = plan_shards(plan, 10**9)[0]

    def made(tensor):
        size = tensor.shape[0]
        if tensor.dtype == "U8":
            yield np.full(size, 7, np.uint8)
            return

        def into(first, out):
            out[:] = values[first : first + len(out)]

        yield Fill(2 * (size - 1000), 2, into)
        yield values[size - 1000 : size].view(np.uint8)

    def given(tensor):
        yield np.full(tensor.shape, 7, np.uint8) if tensor.dtype == "U8" else values[: tensor.shape[0]]

    found = [write_shard(tmp_path / name, shard, make) for name, make in (("a", made), ("b", given))]
    assert found[0] == found[1]
    data = (tmp_path / "a" / shard.file).read_bytes()
    assert data == (tmp_path / "b" / shard.file).read_bytes()
    assert found[0].digest == "blake3:" + blake3(data).hexdigest()
