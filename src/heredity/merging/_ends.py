"""Magnitudes at given ranks of a task vector, exact: in one pass where a sample says where to look, else in two."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from heredity.kernels.ranks import gather
from heredity.kernels.select import DIGITS, count_high, count_low, descend
from heredity.merging._method import TensorBlocks

_ROOM_BYTES = 64 << 20  # for what lies in the brackets of all ends
_SMALL = 1 << 18  # elements; of fewer, two passes are as cheap
_MARGIN = 0.004  # of the sample, besides four standard deviations: rows are not drawn one by one


class End(NamedTuple):
    """Which magnitude is asked for.

    Attributes:
        model: whose task vector.
        rank: from the top, the largest has 0.
    """

    model: int
    rank: int


class Found(NamedTuple):
    """A magnitude.

    Attributes:
        bits: of it as a float32.
        within: its rank among those equal to it.
    """

    bits: int
    within: int


def magnitudes(ends: Sequence[End], blocks: TensorBlocks) -> dict[End, Found]:
    """Return the magnitudes at these ranks."""
    found = _near_sample(ends, blocks) if blocks.size >= _SMALL else {}
    return found | _by_digits([end for end in ends if end not in found], blocks)


def _near_sample(ends: Sequence[End], blocks: TensorBlocks) -> dict[End, Found]:
    """Gather what lies about the ranks, as a sample has it; what is missed is left out."""
    brackets: dict[End, tuple[int, int]] = {}
    drawn = blocks.sample()
    bits = np.sort(np.abs(drawn.models - drawn.base).view(np.uint32), axis=1)
    count = bits.shape[1]
    shares = 1 - (np.array([end.rank for end in ends]) + 0.5) / blocks.size
    margins = np.ceil(_MARGIN * count + 4 * np.sqrt(shares * (1 - shares) * count)).astype(int)
    room = int(2 * 2 * margins.max() / count * blocks.size)
    if 4 * room * len(ends) > _ROOM_BYTES:
        return {}
    for end, share, margin in zip(ends, shares, margins, strict=True):
        place = int(share * count)
        low = int(bits[end.model, place - margin]) if place >= margin else 0
        high = int(bits[end.model, place + margin]) if place + margin < count else 0xFFFFFFFF
        brackets[end] = (low, high)
    kept = {end: np.empty(room, np.uint32) for end in ends}
    above, filled = dict.fromkeys(ends, 0), dict.fromkeys(ends, 0)
    for block in blocks:
        for end, (low, high) in brackets.items():
            if filled[end] < 0:
                continue
            more, filled[end] = gather(block.models[end.model], block.base, low, high, kept[end], filled[end])
            above[end] += more
    found = {}
    for end in ends:
        rank = end.rank - above[end]
        if 0 <= rank < filled[end]:
            inside = kept[end][: filled[end]]
            place = len(inside) - 1 - rank
            magnitude = int(np.partition(inside, place)[place])
            found[end] = Found(magnitude, rank - int(np.count_nonzero(inside > magnitude)))
    return found


def _by_digits(ends: Sequence[End], blocks: TensorBlocks) -> dict[End, Found]:
    """Count the upper digits of all magnitudes, then the lower ones of those that share the right upper one."""
    if not ends:
        return {}
    models = sorted({end.model for end in ends})
    tops = {model: np.zeros(DIGITS // 2, np.int64) for model in models}
    for block in blocks:
        for model, counts in tops.items():
            count_high(np.subtract(block.models[model], block.base, out=block.models[model]), counts)
    upper = {end: descend(tops[end.model], end.rank) for end in ends}
    lows: dict[tuple[int, int], Int64[ndarray, " digits"]] = {
        (end.model, digit): np.zeros(DIGITS, np.int64) for end, (digit, _) in upper.items()
    }
    for block in blocks:
        for model in models:
            np.subtract(block.models[model], block.base, out=block.models[model])
        for (model, digit), counts in lows.items():
            count_low(block.models[model], digit, counts)
    found = {}
    for end, (digit, rank) in upper.items():
        lower, within = descend(lows[end.model, digit], rank)
        found[end] = Found(digit << 16 | lower, within)
    return found
