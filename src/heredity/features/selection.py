"""The k largest pre-activations of every token, without ever holding all of them.

Tokens go through in chunks that stay in the cache. With `bfloat16` the product only nominates: its error is
bounded for every token and latent, all that could be among the k largest are computed in float32, and the
choice is made among those. The result is that of float32 (where values are told apart by float32 at all).
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from msgspec import Struct
from numpy import ndarray
from torch import Tensor

from heredity.features.product import by_rows, chunk_tokens
from heredity.features.sae._variant import Sparse
from heredity.kernels import nominate, sparse


class Layer(Struct, frozen=True):
    """Weights of an encoder on the CPU: pre = x rowsᵀ + bias."""

    rows: Float32[Tensor, "d_sae d_in"]
    bias: Float32[Tensor, " d_sae"]


def largest_of(
    x: Float32[Tensor, "tokens d_in"],
    layer: Layer,
    k: int,
    *,
    dtype: str = "float32",
    others: Int64[ndarray, " n"] | None = None,
    other_k: int = 0,
) -> tuple[Sparse, Sparse | None]:
    """Return the at most k largest positive pre-activations of each token.

    Args:
        x: inputs of the encoder, its bias subtracted.
        layer: the encoder.
        k: latents per token.
        dtype: float32, or bfloat16 for nominating.
        others: latents among which the `other_k` largest are returned as well, ascending.
        other_k: see there.
    """
    d_sae = len(layer.bias)
    first = _Slots.of(len(x), min(k, d_sae))
    second = _Slots.of(len(x), min(other_k, len(others))) if others is not None and len(others) else None
    rounded = _Rounded.of(layer) if dtype == "bfloat16" else None
    step = chunk_tokens(d_sae)
    for start in range(0, len(x), step):
        part = x[start : start + step]
        if rounded is not None and _nominated(part, layer, rounded, start, first, others, second):
            continue
        pre = by_rows(part, layer.rows, layer.bias).numpy()
        first.fill(start, pre)
        if second is not None and others is not None:
            second.fill(start, pre[:, others])
        del pre  # or two chunks are held at once
    codes = first.packed()
    if second is None or others is None:
        return codes, None
    found = second.packed()
    return codes, Sparse(found.indptr, others[found.indices].astype(np.int32), found.values)


def codes_of(
    x: Float32[Tensor, "tokens d_in"],
    layer: Layer,
    activate: Callable[[Float32[ndarray, "tokens d_sae"]], Sparse],
) -> Sparse:
    """Return the codes of tokens each of which fires by itself, some tokens at a time."""
    step = chunk_tokens(len(layer.bias))
    parts = [activate(by_rows(part, layer.rows, layer.bias).numpy()) for part in x.split(step)]
    indptr = np.zeros(len(x) + 1, np.int64)
    np.cumsum(np.concatenate([np.diff(part.indptr) for part in parts]), out=indptr[1:])
    indices, values = (np.concatenate([getattr(p, name) for p in parts]) for name in ("indices", "values"))
    return Sparse(indptr, indices, values)


def fastest_dtype(d_in: int, d_sae: int, k: int) -> str:
    """Return the dtype in which a short trial finds the largest latents of random inputs with less CPU time.

    The answer is a measurement: it may differ between two runs where the two are about equally fast.
    """
    draw = torch.Generator().manual_seed(0)
    width = min(d_sae, _TRIAL_LATENTS)
    layer = Layer(torch.randn(width, d_in, generator=draw) / d_in**0.5, torch.zeros(width))
    x = torch.randn(_TRIAL_TOKENS, d_in, generator=draw)
    seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(_TRIALS):
        for dtype, taken in seconds.items():
            began = time.process_time()
            largest_of(x, layer, k, dtype=dtype)
            taken.append(time.process_time() - began)
    return "bfloat16" if min(seconds["bfloat16"]) < min(seconds["float32"]) else "float32"


_TRIAL_LATENTS, _TRIAL_TOKENS, _TRIALS = 4096, 512, 4


def _nominated(
    x: Tensor, layer: Layer, rounded: "_Rounded", start: int, first: "_Slots",
    others: Int64[ndarray, " n"] | None, second: "_Slots | None",
) -> bool:  # fmt: skip
    """Fill the slots of a chunk of tokens; False if a bound did not hold, so that nothing can be trusted."""
    low = x.bfloat16()
    norm, error = _measured(x, low)
    slack = float((error / np.maximum(norm, np.finfo(np.float32).tiny)).max()) + _SUM * x.shape[1]
    reach = np.float32(slack) * rounded.norm + np.float32(1.01) * rounded.error
    bits = (low @ rounded.rows.T).view(torch.uint16).numpy()
    bias, rows = layer.bias.numpy(), layer.rows.numpy()
    every = np.arange(len(bias), dtype=np.int32)
    fine = first.nominate(start, bits, every, bias, reach, x.numpy(), norm, rows)
    if second is not None and others is not None:
        fine &= second.nominate(
            start,
            bits[:, others],
            others.astype(np.int32),
            bias[others],
            reach[others],
            x.numpy(),
            norm,
            rows,
        )
    return fine


_SUM = 2.0**-23
"""Bound of a float32 sum's rounding per term, for both products together."""
_OUTPUT = np.float32(1.01 * 2.0**-8)
"""Half a unit in the last place of a bfloat16."""


def _measured(rows: Tensor, low: Tensor) -> tuple[Float32[ndarray, " n"], Float32[ndarray, " n"]]:
    """Return the norm of every row, and that of the difference to its rounding."""
    norm, error = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    nominate.rounding(rows.numpy(), low.view(torch.uint16).numpy(), norm, error)
    return norm, error


class _Rounded(Struct, frozen=True):
    rows: Tensor
    norm: Float32[ndarray, " d_sae"]
    error: Float32[ndarray, " d_sae"]

    @classmethod
    def of(cls, layer: Layer) -> "_Rounded":
        low = layer.rows.bfloat16()
        return cls(low, *_measured(layer.rows, low))


class _Slots(Struct, frozen=True):
    """Room for k entries of each token."""

    indices: Int32[ndarray, "tokens k"]
    values: Float32[ndarray, "tokens k"]
    counts: Int64[ndarray, " tokens"]

    @classmethod
    def of(cls, n_tokens: int, k: int) -> "_Slots":
        shape = n_tokens, k
        return cls(np.empty(shape, np.int32), np.empty(shape, np.float32), np.zeros(n_tokens, np.int64))

    def fill(self, start: int, pre: Float32[ndarray, "tokens n"]) -> None:
        here = slice(start, start + len(pre))
        sparse.top_rows(pre, self.indices.shape[1], self.indices[here], self.values[here], self.counts[here])

    def nominate(
        self, start: int, bits: ndarray, latents: ndarray, bias: ndarray, reach: ndarray, x: ndarray,
        x_norm: ndarray, rows: ndarray,
    ) -> bool:  # fmt: skip
        here = slice(start, start + len(bits))
        nominated = np.empty(len(bits), np.int64)
        nominate.top_rows(
            bits, latents, bias, reach, x, x_norm, rows, _OUTPUT, self.indices.shape[1],
            self.indices[here], self.values[here], self.counts[here], nominated,
        )  # fmt: skip
        return bool((nominated >= 0).all())

    def packed(self) -> Sparse:
        indptr = np.zeros(len(self.counts) + 1, np.int64)
        np.cumsum(self.counts, out=indptr[1:])
        indices, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        sparse.pack_slots(self.indices, self.values, indptr, indices, values)
        return Sparse(indptr, indices, values)
