"""Training is seeded, resumes to identical weights, and learns what is there to learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from heredity.errors import ConfigError, StoreError  # noqa: E402
from heredity.models import train  # noqa: E402
from heredity.models.load import initialise, threads  # noqa: E402

PICO = {
    "model_type": "mistral", "vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
SCHEDULE = train.LmTraining(learning_rate=1e-2, epochs=2, batch_blocks=4, warmup_steps=2)


class Stream:
    """Contexts in which the next token is the last one plus one: learnable without any file."""

    context = 16
    digest = "counting"

    def blocks(self) -> np.ndarray:
        return (np.arange(40)[:, None] * 3 + np.arange(16)) % 20


def trained(work: Path, *, seed: int = 0, on_step: Any = None) -> Any:
    with threads(1):
        model = initialise(PICO, seed=1)
        history = train.train_lm(
            model,
            Stream(),
            work,
            config=SCHEDULE,
            seed=seed,
            label="pico",
            on_step=on_step,
            log_every=2,  # type: ignore[arg-type]
        )
    return model.state_dict(), history


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def test_two_runs_are_equal_and_another_seed_is_not(tmp_path: Path) -> None:
    weights, history = trained(tmp_path / "a")
    again, same_history = trained(tmp_path / "b")
    other, _ = trained(tmp_path / "c", seed=1)
    assert same(weights, again)
    assert history == same_history
    assert not same(weights, other)
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert history[-1]["step"] == SCHEDULE.steps(40) == 20
    assert history[-1]["tokens"] == 20 * 4 * 16


@pytest.mark.parametrize("stop_at", [2, 8, 18])
def test_killed_and_resumed_gives_identical_weights(
    tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, history = trained(tmp_path / "whole")
    monkeypatch.setattr(train, "SAVE_EVERY_SECONDS", -1.0)

    def stop(row: dict[str, float]) -> None:
        if row["step"] == stop_at + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", on_step=stop)
    assert (tmp_path / "broken" / "state.json").exists()
    resumed: list[float] = []
    again, same_history = trained(tmp_path / "broken", on_step=lambda row: resumed.append(row["step"]))
    assert same(weights, again)
    assert history == same_history
    assert resumed == [row["step"] for row in history]


def test_state_of_another_training_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "SAVE_EVERY_SECONDS", -1.0)
    trained(tmp_path / "a")
    with pytest.raises(ConfigError, match="state of another training"):
        trained(tmp_path / "a", seed=5)


def test_a_stream_too_short_and_a_loss_that_diverges_are_named(tmp_path: Path) -> None:
    model = initialise(PICO, seed=1)
    long = train.LmTraining(learning_rate=1e-2, batch_blocks=64)
    with pytest.raises(ConfigError, match="40 contexts make no step of 64"):
        train.train_lm(model, Stream(), tmp_path, config=long, seed=0, label="pico")  # type: ignore[arg-type]
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(StoreError, match="pico: the loss is not finite at step 0"):
        train.train_lm(model, Stream(), tmp_path, config=SCHEDULE, seed=0, label="pico")  # type: ignore[arg-type]


def test_the_rate_warms_up_and_ends_near_zero() -> None:
    rates = [SCHEDULE.rate(step, 20) for step in range(20)]
    assert rates[:2] == [5e-3, 1e-2]
    assert max(rates) == 1e-2
    assert rates[-1] < 2e-4
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_each_epoch_visits_every_context_once() -> None:
    rows = np.concatenate([train._rows(step, 4, 10, seed=3) for step in range(5)])
    assert sorted(rows[:10]) == list(range(10))
    assert sorted(rows[10:]) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()


@pytest.mark.parametrize("chunk", [60, 1 << 21])
def test_the_head_in_chunks_equals_autograd(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train._HeadLoss, "CHUNK_ELEMENTS", chunk)
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(0, 20, (33,), generator=draw)
    leaves = [
        (torch.randn(33, 8, generator=draw) * 9).requires_grad_(),
        torch.randn(20, 8, generator=draw).requires_grad_(),
    ]
    twins = [leaf.detach().double().requires_grad_() for leaf in leaves]
    want = torch.nn.functional.cross_entropy(twins[0] @ twins[1].T, target)
    loss = train._HeadLoss.apply(*leaves, target)
    (2 * want).backward()
    (2 * loss).backward()
    assert abs(loss.item() - want.item()) < 1e-5
    for leaf, twin in zip(leaves, twins, strict=True):
        torch.testing.assert_close(leaf.grad.double(), twin.grad, rtol=1e-4, atol=1e-6)


def test_a_head_that_does_more_than_multiply_is_seen() -> None:
    tokens = torch.arange(8)[None]
    assert train._has_plain_head(initialise(PICO, seed=0).eval(), tokens)
    granite = {**PICO, "model_type": "granite", "logits_scaling": 3.0}
    assert not train._has_plain_head(initialise(granite, seed=0).eval(), tokens)
