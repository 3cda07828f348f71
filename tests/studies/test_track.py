"""An SAE of the study that is interrupted keeps the history from before the interruption."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from heredity.errors import StoreError
from heredity.features import diary
from heredity.features.sae import TopK, load
from heredity.features.store import StoreMeta, StoreWriter
from heredity.features.train import Training
from heredity.studies.features import track
from heredity.studies.features.jobs import SaeJob, generations, history_of
from heredity.studies.features.track import train_one


def store(folder: Path) -> str:
    meta = StoreMeta(
        member="m", model_digest="0", site="a:input", stream_digest="0", context=16, n_tokens=512, d=12,
        dtype="float32", shard_tokens=512,
    )  # fmt: skip
    writer = StoreWriter(folder, meta)
    writer.write(0, np.random.default_rng(0).normal(size=(512, 12)).astype(np.float32))
    writer.finish()
    return str(folder)


def job(folder: Path, name: str, start: str | None = None) -> SaeJob:
    return SaeJob(
        member="m", variant="topk", seed=0, kind=TopK(d_sae=24, k=3), store=store(folder / f"{name}-store"),
        out=str(folder / name), checkpoint=str(folder / f"{name}.safetensors"), stream=7, device="cpu", start=start,
        training=Training(tokens=64 * 300, batch_tokens=64, checkpoint_every=40),
    )  # fmt: skip


@pytest.mark.parametrize(("stop_at", "warm"), [(60, False), (150, True), (250, False)])
def test_history_and_weights_are_those_of_an_undisturbed_run(
    tmp_path: Path, stop_at: int, warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diary, "EVERY", 10)
    start = None
    if warm:
        first = job(tmp_path, "first")
        train_one(first)
        start = first.out
    whole = train_one(job(tmp_path, "whole", start))
    write = diary.write_bytes

    def interrupted(path: Path, data: bytes) -> None:
        write(path, data)
        if msgspec.json.decode(data)[-1]["step"] == stop_at:
            raise KeyboardInterrupt

    broken = job(tmp_path, "broken", start)
    monkeypatch.setattr(diary, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_one(broken)
    assert Path(broken.checkpoint).exists()
    monkeypatch.setattr(diary, "write_bytes", write)
    assert train_one(broken) == whole
    weights = [(tmp_path / name / "sae_weights.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
    assert not list(tmp_path.glob("*.json"))
    assert ("init" in load(tmp_path / "broken").metadata) == warm


def test_each_sae_is_trained_after_the_one_that_it_begins_with(tmp_path: Path) -> None:
    names = {"d": "b", "b": "a", "a": None, "c": "a", "e": "gone"}
    made = []
    for name, start in names.items():
        one = job(tmp_path, name, None if start is None else str(tmp_path / start))
        made.append(one)
    assert [[one.name for one in part] for part in generations(made)] == [["a", "e"], ["b", "c"], ["d"]]


def test_killed_after_the_last_checkpoint_nothing_is_left_to_train_and_the_history_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diary, "EVERY", 10)
    one = job(tmp_path, "one")
    one = msgspec.structs.replace(one, training=msgspec.structs.replace(one.training, checkpoint_every=100))
    save = track.save_sae

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(track, "save_sae", stop)
    with pytest.raises(KeyboardInterrupt):
        train_one(one)
    monkeypatch.setattr(track, "save_sae", save)
    rows = train_one(one)
    assert [row["step"] for row in rows] == list(range(10, 301, 10))


@pytest.mark.parametrize(("end", "said"), [("", "is no checkpoint"), (".json", "is damaged")])
def test_what_an_interrupted_training_left_damaged_is_named(tmp_path: Path, end: str, said: str) -> None:
    one = job(tmp_path, "one")
    Path(f"{one.checkpoint}{end}").write_bytes(b"[{12345678")
    with pytest.raises(StoreError, match=said) as raised:
        train_one(one)
    assert str(one.checkpoint) in raised.value.message
    assert not Path(one.out).exists()


def test_a_damaged_history_is_named(tmp_path: Path) -> None:
    (tmp_path / "history.json").write_bytes(b"[{")
    with pytest.raises(StoreError, match=r"history\.json: is damaged"):
        history_of(tmp_path)
