"""What a merge of adapters does to each tensor of their base, as factors; whether an adapter can hold it.

    Σ_i c_i (W + Δ_i) = W + Σ_i c_i Δ_i  where Σ_i c_i = 1,    Δ_i = s_i B_i A_i

The sum of the Δ_i has rank Σ r_i at most: its factors are the inputs' side by side, with c_i s_i multiplied in.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from heredity.adapter import AdaptedCheckpoint, Spelling, spellings
from heredity.checkpoint import ADAPTER_CONFIG, Checkpoint
from heredity.errors import ConfigError, MismatchError
from heredity.header import DTYPE_BYTES
from heredity.jsonfile import read_table
from heredity.lowrank import LowRank, distance, norm, stacked
from heredity.merging._discovery import name_of
from heredity.merging._sum import Term
from heredity.merging.engine import Merge
from heredity.merging.plan import output_dtype
from heredity.writer import Planned

_WHOLE = "leave out the adapter output: the result is written as a whole model then"
_SUM = 1e-6  # how far the coefficients of a tensor may be from a sum of 1


class Change(NamedTuple):
    """What an adapter does to a tensor of its base.

    Attributes:
        name: of the tensor in the base.
        spelling: how the adapters' files speak of it.
        coefficients: of the inputs.
        delta: factors, before they are cut; None where the tensor is written whole (PEFT's modules_to_save).
    """

    name: str
    spelling: Spelling
    coefficients: tuple[float, ...]
    delta: LowRank | None


class Sketch(NamedTuple):
    """What the adapter will hold, as far as headers tell.

    Attributes:
        base: what it will be an adapter of.
        adapters: the inputs.
        turned: whether layers store [in, out] (PEFT's fan_in_fan_out).
        spelled: how the adapters' files speak of every tensor that one of them changes.
        ranks: tensor → rank of its factors; tensors that are missing are written whole.
        write_bytes: of all of them.
    """

    base: Checkpoint
    adapters: tuple[AdaptedCheckpoint, ...]
    turned: bool
    spelled: Mapping[str, Spelling]
    ranks: Mapping[str, int]
    write_bytes: int


def sketch(merge: Merge, dtype: str | None = None, rank: int | None = None) -> Sketch:
    """Check that a merge can be written as an adapter, and say how large that is; from headers only.

    Raises:
        ConfigError: the method treats elements differently, layers are stacked, or the rank is below 1.
        MismatchError: an input is no adapter, or one of another base.
    """
    if rank is not None and rank < 1:
        raise ConfigError(f"an adapter of rank {rank} holds nothing", "give a rank of 1 or more")
    base, adapters = _inputs(merge)
    spelled = _spelled(adapters)
    ranks: dict[str, int] = {}
    nbytes = 0
    for name in spelled:
        deltas = [adapter.deltas[name] for adapter in adapters if name in adapter.deltas]
        if any(name in adapter.saved for adapter in adapters):
            info = base.info(name)
            nbytes += Planned(name, output_dtype(info, dtype), info.shape).nbytes
        else:
            ranks[name] = limited(sum(delta.rank for delta in deltas), deltas[0].shape, rank)
            nbytes += ranks[name] * sum(deltas[0].shape) * DTYPE_BYTES[dtype or "F32"]
    return Sketch(base, adapters, _turned(adapters, spelled), spelled, ranks, nbytes)


def adapter_summary(merge: Merge) -> dict[str, Any]:
    """Return what `plan_summary` says of the result, for an adapter: tensors, ranks, bytes.

    Raises:
        ConfigError: as `sketch`.
        MismatchError: as `sketch`.
    """
    drawn = sketch(merge, merge.target.dtype, merge.target.rank)
    dtype = merge.target.dtype or "F32"
    ranks = [min(drawn.ranks.values(), default=0), max(drawn.ranks.values(), default=0)]
    return {
        "tensors": len(drawn.spelled), "ranks": ranks, "whole": len(drawn.spelled) - len(drawn.ranks),
        "write_bytes": drawn.write_bytes, "dtypes": [dtype], "donor": drawn.base.name, "copied": 0,
    }  # fmt: skip


def changes(merge: Merge, drawn: Sketch) -> list[Change]:
    """Return what the merge does to each tensor of the base that it changes.

    Raises:
        ConfigError: the coefficients of a tensor do not sum to 1, or nothing is changed.
    """
    found = []
    for name in merge.plan.weights:
        coefficients = tuple(float(c) for c in merge.coefficients_of(name))
        terms = merge.terms(name)
        _check_terms(name, terms, drawn.base)
        used = [(checkpoint, factor) for checkpoint, _, factor in terms if factor != 0]
        if any(isinstance(c, AdaptedCheckpoint) and name in c.saved for c, _ in used):
            found.append(Change(name, drawn.spelled[name], coefficients, None))
            continue
        factors = [(factor, delta) for c, factor in used if (delta := c.low_rank(name)) is not None]
        if factors:
            found.append(Change(name, drawn.spelled[name], coefficients, stacked(factors)))
    if not found:
        raise ConfigError(
            "the result is the base itself: an adapter of it would be empty", "check the weights"
        )
    return found


def error_of(change: Change, adapter: AdaptedCheckpoint) -> float:
    """Return the relative Frobenius distance of a written difference from what the merge makes.

    Raises:
        MismatchError: the adapter does not change that tensor by factors.
    """
    written = adapter.low_rank(change.name)
    if change.delta is None or written is None:
        raise MismatchError(f"{adapter.path}: does not change {change.name} by factors", "merge again")
    return relative(distance(written, change.delta), norm(change.delta))


def relative(error: float, length: float) -> float:
    """Return an error as a share of a length; 0 where both are 0."""
    return error / length if length > 0 else 0.0


def _inputs(merge: Merge) -> tuple[Checkpoint, tuple[AdaptedCheckpoint, ...]]:
    """Return the base and the adapters of a merge, which has nothing else."""
    for name in merge.plan.weights:
        if not merge.is_span(name):
            raise _no_low_rank(merge, name)
    stored = list(merge.checkpoints.values())
    adapters = tuple(c for c in stored if isinstance(c, AdaptedCheckpoint))
    if not adapters:
        raise MismatchError("no input is an adapter", "name LoRA folders, or base+adapter, among the models")
    if len(merge.plan.groups) != 1 or merge.target.config or not all(a.base.tensors for a in adapters):
        raise ConfigError("an adapter keeps its base's layers and tokens: here they are changed", _WHOLE)
    base = adapters[0].base
    for checkpoint in stored:
        if isinstance(checkpoint, AdaptedCheckpoint):
            if not _same(checkpoint.base, base):
                raise MismatchError(
                    f"{checkpoint.path}: is an adapter of {checkpoint.base.path}, {adapters[0].path} of {base.path}",
                    f"an adapter has one base; {_WHOLE}",
                )
        elif not _same(checkpoint, base):
            raise MismatchError(
                f"{checkpoint.path}: is a whole model, neither an adapter nor the base of them", _WHOLE
            )
    return base, adapters


def _check_terms(name: str, terms: Sequence[Term], base: Checkpoint) -> None:
    for checkpoint, own, _ in terms:
        if own != name or not (isinstance(checkpoint, AdaptedCheckpoint) or _same(checkpoint, base)):
            raise ConfigError(
                f"tensor {name}: {checkpoint.name} is neither the base's nor an adapter's tensor", _WHOLE
            )
    total = math.fsum(factor for _, _, factor in terms)
    if abs(total - 1) > _SUM:
        raise ConfigError(
            f"tensor {name}: the coefficients sum to {total:.6g}: that scales the base, an adapter cannot",
            f"normalise the weights, or {_WHOLE}",
        )


def _no_low_rank(merge: Merge, name: str) -> ConfigError:
    method = name_of(type(merge.plan.home(name).methods[name]))
    return ConfigError(f"{method} treats the elements of {name} differently: no low rank results", _WHOLE)


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    return one.path.resolve() == other.path.resolve()


def _spelled(adapters: Sequence[AdaptedCheckpoint]) -> dict[str, Spelling]:
    """Return how the first adapter that has factors of a tensor speaks of it, else the first that has it whole."""
    found: dict[str, Spelling] = {}
    for adapter in adapters:
        for name, spelling in spellings(adapter).items():
            if name not in found or (found[name].kind == "saved" and spelling.kind != "saved"):
                found[name] = spelling
    return dict(sorted(found.items()))


def _turned(adapters: Sequence[AdaptedCheckpoint], spelled: Mapping[str, Spelling]) -> bool:
    """Return the fan_in_fan_out that all adapters of layers have."""
    flags: dict[bool, AdaptedCheckpoint] = {}
    for adapter in adapters:
        if any(spelled[name].kind == "layer" for name in adapter.deltas):
            config = read_table(adapter.path / ADAPTER_CONFIG)
            flags.setdefault(bool(config.get("fan_in_fan_out")), adapter)
    if len(flags) > 1:
        raise MismatchError(
            f"{flags[True].path} has fan_in_fan_out, {flags[False].path} has not",
            f"one adapter has one; {_WHOLE}",
        )
    return True in flags


def limited(total: int, shape: tuple[int, int], asked: int | None) -> int:
    """Return the rank of factors: of the inputs together, at most what the shape allows and what is asked for."""
    return min(total, *shape) if asked is None else min(total, *shape, asked)
