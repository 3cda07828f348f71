"""The loss of an SAE and its gradients, written by hand; equal to autograd's.

With B tokens of width d, error e = x̂ − x, codes f, and ê what dead latents make of the residual −e:

    loss = (Σ‖e‖² + penalty · Σ f + AUX · Σ‖ê + e‖²) / (B d)

The residual counts as a constant, as in Gao et al. 2024, A.2. Two paths, one result: sparse (CPU: decode by
gather, weight gradients as sparse × dense products) and dense (any device; also where many latents fire).
"""

from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from msgspec import Struct, field
from numpy import ndarray
from torch import Tensor

from heredity.features.product import by_rows
from heredity.features.rectified import add_rectified
from heredity.features.sae._variant import Sparse
from heredity.features.sae.l1 import L1
from heredity.features.sae.topk import TopK, largest
from heredity.features.selection import Layer, largest_of
from heredity.kernels import sparse

AUX = 1 / 32
"""Weight of the revival loss (Gao et al. 2024)."""


class Parameters(Struct, eq=False):
    """An SAE's weights, or one number for each of them (a gradient, a moment), in rows of latents.

    Attributes:
        encoder: [d_sae, d_in], W_enc transposed: every latent's weights are contiguous.
        decoder: [d_sae, d_in].
        b_enc: [d_sae].
        b_dec: [d_in].
        extra: [n_extra, d_sae], what an `Extended` variant adds, e.g. thresholds; no rows for the others.
    """

    encoder: Float32[Tensor, "d_sae d_in"]
    decoder: Float32[Tensor, "d_sae d_in"]
    b_enc: Float32[Tensor, " d_sae"]
    b_dec: Float32[Tensor, " d_in"]
    extra: Float32[Tensor, "n_extra d_sae"] = field(default_factory=lambda: torch.zeros(0, 1))

    def zeros(self) -> "Parameters":
        """Return zeros of the same shapes, on the same device."""
        return Parameters(*(torch.zeros_like(getattr(self, name)) for name in self.__struct_fields__))


class Firing(Protocol):
    """Which pre-activations fire in a training step; every variant without weights of its own says so."""

    @property
    def aux_k(self) -> int:
        """Dead latents that explain what is left over; 0: none."""

    def activate(self, pre: Float32[ndarray, "tokens d_sae"]) -> Sparse:
        """Return the latents that fire, from pre-activations on the CPU."""

    def activate_dense(self, pre: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_sae"]:
        """Return the same as a dense tensor, on any device."""


class Step(Struct):
    """What one forward pass saw.

    Attributes:
        squared_error: Σ‖x − x̂‖².
        n_codes: firings.
        sum_codes: Σ f.
        fired: which latents fired.
        loss: the whole loss.
    """

    squared_error: float
    n_codes: int
    sum_codes: float
    fired: Bool[ndarray, " d_sae"]
    loss: float


def add_gradients(
    variant: Firing,
    p: Parameters,
    x: Float32[Tensor, "tokens d_in"],
    gradients: Parameters,
    *,
    penalty: float = 0.0,
    dead: Bool[ndarray, " d_sae"] | None = None,
    dense: bool = False,
    dtype: str = "float32",
) -> Step:
    """Add the loss's gradients for one batch to `gradients`, and return what was seen.

    Args:
        variant: which latents fire.
        p: the weights.
        x: activations, already scaled.
        gradients: added to in place.
        penalty: weight of Σ f.
        dead: latents that may explain the residual; none for no revival.
        dense: take the dense path.
        dtype: float32; bfloat16 finds the same largest latents faster on some processors, see selection.py.
    """
    if dense and isinstance(variant, L1) and x.device.type == "cpu":
        seen = add_rectified(p, x, gradients, penalty)
        loss = (seen.squared_error + penalty * seen.sum_codes) / x.numel()
        return Step(seen.squared_error, seen.n_codes, seen.sum_codes, seen.fired, loss)
    centred = x - p.b_dec
    revived = np.flatnonzero(dead) if dead is not None and variant.aux_k else np.empty(0, np.int64)
    if dense:
        return _dense(variant, p, x, centred, gradients, penalty, revived)
    if isinstance(variant, TopK):
        layer = Layer(p.encoder, p.b_enc)
        codes, second = largest_of(
            centred, layer, variant.k, dtype=dtype, others=revived, other_k=variant.aux_k
        )
    else:
        pre = by_rows(centred, p.encoder, p.b_enc).numpy()
        codes, second = variant.activate(pre), None
        if len(revived):
            best = largest(pre[:, revived], variant.aux_k)
            second = Sparse(best.indptr, revived[best.indices].astype(np.int32), best.values)
    return _sparse(codes, second, p, x, centred, gradients, penalty)


def _sparse(
    codes: Sparse, second: Sparse | None, p: Parameters, x: Tensor, centred: Tensor, gradients: Parameters,
    penalty: float,
) -> Step:  # fmt: skip
    size = x.numel()
    error = np.empty(tuple(x.shape), np.float32)
    sparse.decode_rows(codes.indptr, codes.indices, codes.values, p.decoder.numpy(), p.b_dec.numpy(), error)
    error -= x.numpy()
    squared, sum_codes = _sum_squares(error), float(codes.values.sum(dtype=np.float64))
    loss = (squared + penalty * sum_codes) / size
    fired = np.bincount(codes.indices, minlength=len(p.b_enc)) > 0
    if second is not None:
        loss += _revive(second, p, centred, error, gradients)
    error *= np.float32(2 / size)
    _scatter(codes, p, centred.numpy(), error, gradients, penalty / size)
    gradients.b_dec += torch.from_numpy(error.sum(axis=0))
    return Step(squared, len(codes.values), sum_codes, fired, loss)


def _revive(codes: Sparse, p: Parameters, centred: Tensor, error: ndarray, gradients: Parameters) -> float:
    """Let the best dead latents of each token explain −error; return their part of the loss."""
    left = np.empty_like(error)
    nothing = np.zeros(error.shape[1], np.float32)
    sparse.decode_rows(codes.indptr, codes.indices, codes.values, p.decoder.numpy(), nothing, left)
    left += error
    loss = AUX * _sum_squares(left) / left.size
    left *= np.float32(2 * AUX / left.size)
    _scatter(codes, p, centred.numpy(), left, gradients, 0.0)
    return loss


def _scatter(
    codes: Sparse, p: Parameters, centred: ndarray, error: ndarray, gradients: Parameters, penalty: float
) -> None:
    """Add the gradients that flow through some codes, but for the decoder bias's own."""
    starts, tokens, places = sparse.by_latent(codes.indptr, codes.indices, len(p.b_enc))
    bias = np.empty(len(p.b_enc), np.float32)
    sparse.scatter(
        starts, tokens, places, codes.values, penalty, error, centred,
        p.decoder.numpy(), gradients.decoder.numpy(), gradients.encoder.numpy(), bias,
    )  # fmt: skip
    gradients.b_enc += torch.from_numpy(bias)
    gradients.b_dec -= torch.from_numpy(bias) @ p.encoder  # x enters the encoder as x − b_dec


def _dense(
    variant: Firing, p: Parameters, x: Tensor, centred: Tensor, gradients: Parameters, penalty: float,
    revived: Int64[ndarray, " dead"],
) -> Step:  # fmt: skip
    size = x.numel()
    pre = by_rows(centred, p.encoder, p.b_enc)
    second = None
    if len(revived):
        names = torch.from_numpy(revived).to(x.device)
        top = pre[:, names].topk(min(variant.aux_k, len(names)), dim=-1)
        second = names[top.indices], top.values.relu()
    codes = variant.activate_dense(pre)
    del pre
    error = by_rows(codes, p.decoder.T, p.b_dec) - x
    squared, sum_codes = float(error.double().square().sum()), float(codes.sum(dim=1).double().sum())
    loss = (squared + penalty * sum_codes) / size
    firing = codes > 0
    fired, n_codes = firing.any(dim=0).cpu().numpy(), int(firing.sum())
    del firing
    if second is not None:
        explained = torch.zeros_like(codes).scatter_(-1, *second)
        left = by_rows(explained, p.decoder.T) + error
        loss += AUX * float(left.double().square().sum()) / size
        _through(explained, p, centred, left * (2 * AUX / size), gradients, 0.0)
        del explained
    error *= 2 / size
    _through(codes, p, centred, error, gradients, penalty / size)
    gradients.b_dec += error.sum(dim=0)
    return Step(squared, n_codes, sum_codes, fired, loss)


def _through(
    codes: Tensor, p: Parameters, centred: Tensor, error: Tensor, gradients: Parameters, penalty: float
) -> None:
    """Add the gradients that flow through some codes, latents by latents, so that temporaries stay small."""
    step = _LATENTS if codes.device.type == "cpu" else codes.shape[1]
    bias = torch.empty_like(p.b_enc)
    for start in range(0, codes.shape[1], step):
        here = slice(start, start + step)
        mine = codes[:, here].T.contiguous()
        gradients.decoder[here] += by_rows(mine, error.T)
        slope = by_rows(p.decoder[here], error).add_(penalty).mul_(mine > 0)
        gradients.encoder[here] += by_rows(slope, centred.T)
        bias[here] = slope.sum(dim=1)
    gradients.b_enc += bias
    gradients.b_dec -= bias @ p.encoder  # x enters the encoder as x − b_dec


_LATENTS = 1024


def _sum_squares(values: ndarray) -> float:
    flat = values.reshape(-1)
    return float(sum(float(np.dot(part, part)) for part in np.array_split(flat, max(1, flat.size // 65_536))))
