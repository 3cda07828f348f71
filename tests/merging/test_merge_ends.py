"""Magnitudes at a rank are exact, whatever a sample says; and what is used of task vectors is counted right."""

from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray

from heredity.merging import _ends
from heredity.merging._blocks import InputBlocks
from heredity.merging._ends import End, magnitudes
from heredity.merging._tally import Tally
from heredity.writer import write_checkpoint

RNG = np.random.default_rng(0)
SIZE = 300_000
SHAPES = {
    "normal": RNG.normal(size=SIZE),
    "ties": RNG.integers(-3, 4, size=SIZE) * 0.25,
    "sparse": RNG.normal(size=SIZE) * (RNG.random(SIZE) < 0.01),
    "sorted": np.sort(RNG.normal(size=SIZE)),  # rows unlike each other
    "equal": np.ones(SIZE),
    "zeros": np.zeros(SIZE),
}


def blocks_of(folder: Path, delta: ndarray) -> InputBlocks:
    values = np.zeros((3, len(delta)), np.float32)
    values[1], values[2] = delta, -delta[::-1]
    inputs = [
        write_checkpoint(folder / name, {"w": (row, "F32")}) for name, row in zip("xab", values, strict=True)
    ]
    return InputBlocks(inputs, "w", 0, rows=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("room", [64 << 20, 0, 300_000])
def test_magnitudes_are_those_of_a_sort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, room: int
) -> None:
    monkeypatch.setattr(_ends, "_ROOM_BYTES", room)
    blocks = blocks_of(tmp_path, SHAPES[shape])
    ends = [End(model, rank) for model in (0, 1) for rank in (0, 17, SIZE // 2, SIZE - 1)]
    ordered = np.sort(np.abs(SHAPES[shape].astype(np.float32)))[::-1]
    found = magnitudes(ends, blocks)
    for end in ends:
        magnitude = np.uint32(found[end].bits).view(np.float32)
        assert magnitude == ordered[end.rank]
        assert found[end].within == end.rank - np.count_nonzero(ordered > magnitude)


def test_one_pass_finds_what_two_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, ends = blocks_of(tmp_path, SHAPES["normal"]), [End(0, SIZE // 2), End(1, SIZE // 10)]
    assert _ends._near_sample(ends, blocks) == _ends._by_digits(ends, blocks)


@pytest.mark.parametrize("models", [1, 2, 3])
@pytest.mark.parametrize("least", [0.0, 0.5])
def test_the_tally_counts_what_is_used_and_what_conflicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: int, least: float
) -> None:
    monkeypatch.setattr("heredity.merging._blocks.BLOCK", 1000)
    values = RNG.normal(size=(models + 1, 5003)).astype(np.float32)
    values[:, RNG.random(5003) < 0.3] = 0
    values[0] = 0
    values[-1, 7] = np.nan
    inputs = [write_checkpoint(tmp_path / str(i), {"w": (row, "F32")}) for i, row in enumerate(values)]
    blocks, tally = InputBlocks(inputs, "w", 0, rows=False), Tally(models)
    for _ in range(2):  # the second time over, it starts from nothing
        for block in blocks:
            tally.count(block, least)
    deltas = values[1:]
    opposite = (deltas > 0).any(axis=0) & (deltas < 0).any(axis=0)
    used = ~(np.abs(deltas) <= np.float32(least))
    assert tally.facts == {"kept": (used.sum(axis=1) / 5003).tolist(), "sign_conflicts": opposite.mean()}
