"""An SAE of the study that is interrupted keeps the history from before the interruption."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from heredity.features.store import StoreMeta, StoreWriter
from heredity.features.train import Training
from heredity.studies.features import track
from heredity.studies.features.track import SaeJob, train_one


def store(folder: Path) -> str:
    meta = StoreMeta(
        member="m", model_digest="0", site="a:input", stream_digest="0", context=16, n_tokens=512, d=12,
        dtype="float32", shard_tokens=512,
    )  # fmt: skip
    writer = StoreWriter(folder, meta)
    writer.write(0, np.random.default_rng(0).normal(size=(512, 12)).astype(np.float32))
    writer.finish()
    return str(folder)


def job(folder: Path, name: str) -> SaeJob:
    return SaeJob(
        member="m", variant="topk", seed=0, store=store(folder / f"{name}-store"), out=str(folder / name),
        checkpoint=str(folder / f"{name}.safetensors"), latents=24, k=3, l1=1.0, stream=7, device="cpu",
        training=Training(tokens=64 * 300, batch_tokens=64, checkpoint_every=40),
    )  # fmt: skip


@pytest.mark.parametrize("stop_at", [60, 150, 250])
def test_history_and_weights_are_those_of_an_undisturbed_run(
    tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "_LOG_EVERY", 10)
    whole = train_one(job(tmp_path, "whole"))
    write = track.write_bytes

    def interrupted(path: Path, data: bytes) -> None:
        write(path, data)
        if msgspec.json.decode(data)[-1]["step"] == stop_at:
            raise KeyboardInterrupt

    broken = job(tmp_path, "broken")
    monkeypatch.setattr(track, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_one(broken)
    assert Path(broken.checkpoint).exists()
    monkeypatch.setattr(track, "write_bytes", write)
    assert train_one(broken) == whole
    weights = [(tmp_path / name / "sae_weights.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
    assert not list(tmp_path.glob("*.json"))
