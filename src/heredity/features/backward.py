"""The loss of an SAE and its gradients, written by hand; equal to autograd's.

With B tokens of width d, error e = x̂ − x, codes f, and ê what dead latents make of the residual −e:

    loss = (Σ‖e‖² + penalty · Σ f + AUX · Σ‖ê + e‖²) / (B d)

The residual counts as a constant, as in Gao et al. 2024, A.2. Two paths, one result: sparse (CPU: decode by
gather, weight gradients as sparse × dense products) and dense (any device; also where many latents fire).
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from msgspec import Struct, field
from numpy import ndarray
from torch import Tensor

from heredity.features.product import by_rows
from heredity.features.rectified import rectified_gradients
from heredity.features.sae._variant import Sparse
from heredity.features.sae.l1 import L1
from heredity.features.sae.topk import TopK, largest
from heredity.features.selection import Layer, codes_of, largest_of
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


class Sink(Protocol):
    """Where gradients go, some latents at a time; see `Whole` and optimise.py."""

    b_dec: Float32[Tensor, " d_in"]
    """To be added to."""

    def room(self, here: slice) -> "Room":
        """Return where the gradients of some latents are to be added."""

    def done(self, here: slice) -> None:
        """Nothing more comes for these latents in this step, and their weights are not read again."""


class Room(NamedTuple):
    """Gradients of some latents."""

    encoder: Float32[Tensor, "some d_in"]
    decoder: Float32[Tensor, "some d_in"]
    b_enc: Float32[Tensor, " some"]


class Whole:
    """All gradients, kept."""

    def __init__(self, gradients: Parameters) -> None:
        self.gradients, self.b_dec = gradients, gradients.b_dec

    def room(self, here: slice) -> Room:
        """Return a view of these latents' gradients."""
        return Room(self.gradients.encoder[here], self.gradients.decoder[here], self.gradients.b_enc[here])

    def done(self, here: slice) -> None:
        """Keep them."""


def groups(d_sae: int) -> list[slice]:
    """Return all latents in groups whose gradients stay in a cache."""
    return [slice(start, min(start + _LATENTS, d_sae)) for start in range(0, d_sae, _LATENTS)]


_LATENTS = 1024


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
    if streams(variant, x, dense):
        return send_gradients(variant, p, x, Whole(gradients), penalty, dead, dense, dtype)
    revived = np.flatnonzero(dead) if dead is not None and variant.aux_k else np.empty(0, np.int64)
    return _dense(variant, p, x, gradients, penalty, revived)


def streams(variant: Firing, x: Tensor, dense: bool) -> bool:
    """Say whether gradients come latents by latents: on the CPU, but for dense codes of a general kind."""
    return x.device.type == "cpu" and (not dense or isinstance(variant, L1))


def send_gradients(
    variant: Firing, p: Parameters, x: Float32[Tensor, "tokens d_in"], sink: Sink, penalty: float,
    dead: Bool[ndarray, " d_sae"] | None, dense: bool, dtype: str,
) -> Step:  # fmt: skip
    """Do what `add_gradients` does, where `streams` says so; the gradients go to `sink`."""
    if dense:
        seen = rectified_gradients(p, x, sink, groups(len(p.b_enc)), penalty)
        loss = (seen.squared_error + penalty * seen.sum_codes) / x.numel()
        return Step(seen.squared_error, seen.n_codes, seen.sum_codes, seen.fired, loss)
    centred = x - p.b_dec
    revived = np.flatnonzero(dead) if dead is not None and variant.aux_k else np.empty(0, np.int64)
    layer, second = Layer(p.encoder, p.b_enc), None
    if isinstance(variant, TopK):
        codes, second = largest_of(
            centred, layer, variant.k, dtype=dtype, others=revived, other_k=variant.aux_k
        )
    elif isinstance(variant, L1):
        codes = codes_of(centred, layer, variant.activate)
    else:
        pre = by_rows(centred, p.encoder, p.b_enc).numpy()
        codes = variant.activate(pre)
        if len(revived):
            best = largest(pre[:, revived], variant.aux_k)
            second = Sparse(best.indptr, revived[best.indices].astype(np.int32), best.values)
    return _sparse(codes, second, p, x, centred.numpy(), sink, penalty)


def _sparse(
    codes: Sparse,
    second: Sparse | None,
    p: Parameters,
    x: Tensor,
    centred: ndarray,
    sink: Sink,
    penalty: float,
) -> Step:
    size = x.numel()
    error = np.empty(tuple(x.shape), np.float32)
    sparse.decode_rows(codes.indptr, codes.indices, codes.values, p.decoder.numpy(), p.b_dec.numpy(), error)
    error -= x.numpy()
    squared, sum_codes = _sum_squares(error), float(codes.values.sum(dtype=np.float64))
    loss = (squared + penalty * sum_codes) / size
    fired = np.bincount(codes.indices, minlength=len(p.b_enc)) > 0
    flows = []
    if second is not None:  # the best dead latents of each token explain −error
        left = np.empty_like(error)
        nothing = np.zeros(error.shape[1], np.float32)
        sparse.decode_rows(second.indptr, second.indices, second.values, p.decoder.numpy(), nothing, left)
        left += error
        loss += AUX * _sum_squares(left) / size
        left *= np.float32(2 * AUX / size)
        flows.append(_Flow.of(second, left, 0.0, len(fired)))
    error *= np.float32(2 / size)
    flows.append(_Flow.of(codes, error, penalty / size, len(fired)))
    sink.b_dec += torch.from_numpy(error.sum(axis=0))
    for here in groups(len(fired)):
        room = sink.room(here)
        for flow in flows:
            bias = torch.from_numpy(flow.add(here, centred, p.decoder[here].numpy(), room))
            sink.b_dec -= bias @ p.encoder[here]  # x enters the encoder as x − b_dec
            room.b_enc.add_(bias)
        sink.done(here)
    return Step(squared, len(codes.values), sum_codes, fired, loss)


class _Flow(NamedTuple):
    """Codes by latent, and the gradient of the loss at what they decode to."""

    starts: ndarray
    tokens: ndarray
    places: ndarray
    values: ndarray
    error: ndarray
    penalty: float

    @classmethod
    def of(cls, codes: Sparse, error: ndarray, penalty: float, d_sae: int) -> "_Flow":
        starts, tokens, places = sparse.by_latent(codes.indptr, codes.indices, d_sae)
        return cls(starts, tokens, places, codes.values, error, penalty)

    def add(self, here: slice, centred: ndarray, decoder: ndarray, room: Room) -> Float32[ndarray, " some"]:
        """Add the gradients of some latents' weights; return those at their biases."""
        bias = np.empty(len(decoder), np.float32)
        sparse.scatter(
            self.starts[here.start : here.stop + 1], self.tokens, self.places, self.values, self.penalty,
            self.error, centred, decoder, room.decoder.numpy(), room.encoder.numpy(), bias,
        )  # fmt: skip
        return bias


def _dense(
    variant: Firing, p: Parameters, x: Tensor, gradients: Parameters, penalty: float,
    revived: Int64[ndarray, " dead"],
) -> Step:  # fmt: skip
    size, centred = x.numel(), x - p.b_dec
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
    d_sae = codes.shape[1]
    bias = torch.empty_like(p.b_enc)
    for here in groups(d_sae) if codes.device.type == "cpu" else [slice(0, d_sae)]:
        mine = codes[:, here].T.contiguous()
        gradients.decoder[here] += by_rows(mine, error.T)
        slope = by_rows(p.decoder[here], error).add_(penalty).mul_(mine > 0)
        gradients.encoder[here] += by_rows(slope, centred.T)
        bias[here] = slope.sum(dim=1)
    gradients.b_enc += bias
    gradients.b_dec -= bias @ p.encoder


def _sum_squares(values: ndarray) -> float:
    flat = values.reshape(-1)
    return float(sum(float(np.dot(part, part)) for part in np.array_split(flat, max(1, flat.size // 65_536))))
