"""The loss of an SAE and its gradients, written by hand; equal to autograd's.

With B tokens of width d, error e = x̂ − x, codes f, and ê what dead latents make of the residual −e:

    loss = (Σ‖e‖² + penalty · Σ f + AUX · Σ‖ê + e‖²) / (B d)

The residual counts as a constant, as in Gao et al. 2024, A.2. Two paths, one result: sparse (CPU: decode by
gather, weight gradients as sparse × dense products) and dense (any device; also where many latents fire).
"""

import numpy as np
import torch
from jaxtyping import Bool, Float32
from msgspec import Struct, field
from numpy import ndarray
from torch import Tensor

from heredity.features.sae._variant import Sparse, Variant
from heredity.features.sae.topk import largest
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
    variant: Variant,
    p: Parameters,
    x: Float32[Tensor, "tokens d_in"],
    gradients: Parameters,
    *,
    penalty: float = 0.0,
    dead: Bool[ndarray, " d_sae"] | None = None,
    dense: bool = False,
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
    """
    centred = x - p.b_dec
    pre = torch.addmm(p.b_enc, centred, p.encoder.T)
    if dense:
        return _dense(variant, p, x, centred, pre, gradients, penalty, dead)
    return _sparse(variant, p, x, centred, pre, gradients, penalty, dead)


def _sparse(
    variant: Variant, p: Parameters, x: Tensor, centred: Tensor, pre: Tensor, gradients: Parameters,
    penalty: float, dead: Bool[ndarray, " d_sae"] | None,
) -> Step:  # fmt: skip
    size = x.numel()
    codes = variant.activate(pre.numpy())
    error = np.empty(tuple(x.shape), np.float32)
    sparse.decode_rows(codes.indptr, codes.indices, codes.values, p.decoder.numpy(), p.b_dec.numpy(), error)
    error -= x.numpy()
    squared, sum_codes = _sum_squares(error), float(codes.values.sum(dtype=np.float64))
    loss = (squared + penalty * sum_codes) / size
    fired = np.bincount(codes.indices, minlength=len(p.b_enc)) > 0
    if dead is not None and dead.any() and variant.aux_k:
        loss += _revive(variant.aux_k, p, centred, pre, error, gradients, dead)
    error *= np.float32(2 / size)
    _scatter(codes, p, centred.numpy(), error, gradients, penalty / size)
    gradients.b_dec += torch.from_numpy(error.sum(axis=0))
    return Step(squared, len(codes.values), sum_codes, fired, loss)


def _revive(
    k: int, p: Parameters, centred: Tensor, pre: Tensor, error: ndarray, gradients: Parameters, dead: ndarray
) -> float:
    """Let the best k dead latents of each token explain −error; return their part of the loss."""
    names = np.flatnonzero(dead).astype(np.int32)
    codes = largest(pre.numpy()[:, names], k)
    codes = Sparse(codes.indptr, names[codes.indices], codes.values)
    left = np.empty_like(error)
    sparse.decode_rows(
        codes.indptr,
        codes.indices,
        codes.values,
        p.decoder.numpy(),
        np.zeros(error.shape[1], np.float32),
        left,
    )
    left += error
    loss = AUX * _sum_squares(left) / left.size
    left *= np.float32(2 * AUX / left.size)
    _scatter(codes, p, centred.numpy(), left, gradients, 0.0)
    return loss


def _scatter(
    codes: Sparse, p: Parameters, centred: ndarray, error: ndarray, gradients: Parameters, penalty: float
) -> None:
    """Add the gradients that flow through some codes, but for the decoder bias's own."""
    slope = np.empty(len(codes.values), np.float32)
    sparse.code_gradient(codes.indptr, codes.indices, error, p.decoder.numpy(), np.float32(penalty), slope)
    starts, tokens, places = sparse.by_latent(codes.indptr, codes.indices, len(p.b_enc))
    sparse.weight_gradient(starts, tokens, places, codes.values, error, gradients.decoder.numpy())
    sparse.weight_gradient(starts, tokens, places, slope, centred, gradients.encoder.numpy())
    bias = np.zeros(len(p.b_enc), np.float32)
    sparse.latent_sums(starts, places, slope, bias)
    gradients.b_enc += torch.from_numpy(bias)
    gradients.b_dec -= torch.from_numpy(bias) @ p.encoder  # x enters the encoder as x − b_dec


def _dense(
    variant: Variant, p: Parameters, x: Tensor, centred: Tensor, pre: Tensor, gradients: Parameters,
    penalty: float, dead: Bool[ndarray, " d_sae"] | None,
) -> Step:  # fmt: skip
    size = x.numel()
    codes = variant.activate_dense(pre)
    error = torch.addmm(p.b_dec, codes, p.decoder) - x
    squared, sum_codes = float(error.double().square().sum()), float(codes.double().sum())
    loss = (squared + penalty * sum_codes) / size
    if dead is not None and dead.any() and variant.aux_k:
        names = torch.from_numpy(np.flatnonzero(dead)).to(x.device)
        top = pre[:, names].topk(min(variant.aux_k, len(names)), dim=-1)
        revived = torch.zeros_like(pre).scatter_(-1, names[top.indices], top.values.relu())
        left = revived @ p.decoder + error
        loss += AUX * float(left.double().square().sum()) / size
        _through(revived, p, centred, left * (2 * AUX / size), gradients, 0.0)
    error *= 2 / size
    _through(codes, p, centred, error, gradients, penalty / size)
    gradients.b_dec += error.sum(dim=0)
    fired = (codes > 0).any(dim=0).cpu().numpy()
    return Step(squared, int((codes > 0).sum()), sum_codes, fired, loss)


def _through(
    codes: Tensor, p: Parameters, centred: Tensor, error: Tensor, gradients: Parameters, penalty: float
) -> None:
    slope = torch.mm(error, p.decoder.T).add_(penalty).mul_(codes > 0)
    gradients.decoder.addmm_(codes.T, error)
    gradients.encoder.addmm_(slope.T, centred)
    bias = slope.sum(dim=0)
    gradients.b_enc += bias
    gradients.b_dec -= bias @ p.encoder


def _sum_squares(values: ndarray) -> float:
    flat = values.reshape(-1)
    return float(sum(float(np.dot(part, part)) for part in np.array_split(flat, max(1, flat.size // 65_536))))
