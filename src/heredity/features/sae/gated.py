"""Gated: one path decides which latents fire, another how strongly; only the first is charged for firing.

With z = (x − b_dec) W_enc, gate π = z + b_gate and magnitude m = z · exp(r_mag) + b_mag:

    f = [π > 0] · ReLU(m)
    loss = (Σ‖x̂(f) − x‖² + l1 · Σ ReLU(π) + Σ‖x̂_frozen(ReLU(π)) − x‖²) / (B d)

The frozen decoder gets no gradient from the last term, so charging π does not shrink the magnitudes.
Source: Rajamanoharan et al. 2024 (arXiv 2404.16014), eq. 6–8.
"""

from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from msgspec import Meta, convert
from numpy import ndarray
from torch import Tensor

from heredity.features.backward import Parameters, Step, add_gradients
from heredity.features.sae._threshold import above
from heredity.features.sae._variant import NO_EXTRA, Extended, Extra, Sparse

_TINY = float(np.finfo(np.float32).tiny)


class Gated(Extended, frozen=True, kw_only=True):
    """ReLU codes behind a gate that shares the encoder; `b_enc` is not used and stays 0.

    Dead latents are resampled, as with L1: the charge drives their gates below 0 for every token, where no
    gradient finds them.

    Attributes:
        l1: weight of Σ ReLU(π) per token beside the squared errors per token, over inputs scaled to a mean
            squared norm of d_in.
        warmup: share of the steps in which the charge rises from 0.
    """

    architecture: ClassVar[str] = "gated"
    has_b_enc: ClassVar[bool] = False
    resampled: ClassVar[bool] = True
    extras: ClassVar[tuple[str, ...]] = ("b_gate", "r_mag", "b_mag")

    l1: Annotated[float, Meta(ge=0)]
    warmup: Annotated[float, Meta(gt=0, le=1)] = 0.1

    def activate(self, pre: Float32[ndarray, "tokens d_sae"], extra: Extra = NO_EXTRA) -> Sparse:
        """Return the magnitudes of the latents whose gate is open."""
        b_gate, r_mag, b_mag = (extra[name].detach().cpu().numpy() for name in self.extras)
        gain = np.exp(r_mag)
        open_ = above(pre, np.maximum(-b_gate, -b_mag / gain))
        values = open_.values * gain[open_.indices] + b_mag[open_.indices]
        return Sparse(open_.indptr, open_.indices, np.maximum(values, np.float32(_TINY)))

    def activate_dense(
        self, pre: Float[Tensor, "tokens d_sae"], extra: Extra = NO_EXTRA
    ) -> Float[Tensor, "tokens d_sae"]:
        """Return the same as a dense tensor."""
        return (pre * extra["r_mag"].exp() + extra["b_mag"]).relu() * (pre + extra["b_gate"] > 0)

    def first_codes(self, pre: Float32[Tensor, "tokens d_sae"]) -> Float32[Tensor, "tokens d_sae"]:
        """Return the positive entries."""
        return pre.relu()

    def begin(
        self, extra: Extra | None = None, scale: Float32[Tensor, " d_sae"] | None = None
    ) -> Float32[Tensor, "3 d_sae"]:
        """Return b_gate, r_mag and b_mag: 0, or a finished SAE's."""
        if extra is None or scale is None:
            return torch.zeros(3, self.d_sae)
        b_gate, r_mag, b_mag = (extra[name].cpu() for name in self.extras)
        return torch.stack([b_gate * scale, r_mag, b_mag * scale])

    def finish(self, rows: Float32[Tensor, "3 d_sae"], scale: float) -> dict[str, Tensor]:
        """Return b_gate, r_mag and b_mag; the gain has no scale."""
        return {"b_gate": rows[0] / scale, "r_mag": rows[1].clone(), "b_mag": rows[2] / scale}

    def add_gradients(
        self,
        p: Parameters,
        x: Float32[Tensor, "tokens d_in"],
        gradients: Parameters,
        *,
        progress: float,
        dead: Bool[ndarray, " d_sae"] | None = None,
        dense: bool = False,
    ) -> Step:
        """Add both paths' gradients, each as that of a plain SAE: the gate's, and the magnitudes'."""
        charge = self.l1 * min(1.0, progress / self.warmup)
        gate = self._add_gate(p, x, gradients, charge, dense)
        main = self._add_magnitude(p, x, gradients, dense)
        return msgspec.structs.replace(main, loss=main.loss + gate.loss)

    def settings(self) -> dict[str, Any]:
        """Return nothing: the architecture has no settings of its own."""
        return {}

    @classmethod
    def read(cls, config: dict[str, Any], own: dict[str, Any] | None) -> "Gated":
        """Return the variant of a cfg.json; SAELens does not keep the charge there, so it reads as 0."""
        return convert(own, cls) if own else cls(d_sae=config["d_sae"], l1=0.0)

    @property
    def penalty(self) -> float:
        """0: the codes themselves are not charged."""
        return 0.0

    @property
    def aux_k(self) -> int:
        """0: dead latents are resampled."""
        return 0

    def _add_gate(self, p: Parameters, x: Tensor, gradients: Parameters, charge: float, dense: bool) -> Step:
        """The gate as an L1 SAE whose decoder is frozen."""
        view = Parameters(p.encoder, p.decoder, p.extra[0], p.b_dec)
        got = view.zeros()
        closed = np.zeros(self.d_sae, np.float32)
        seen = add_gradients(_Above(closed), view, x, got, penalty=charge, dense=dense)
        gradients.encoder += got.encoder
        gradients.extra[0] += got.b_enc
        gradients.b_dec -= (
            got.b_enc @ p.encoder
        )  # as the encoder's input x − b_dec, not as the decoder's bias
        return seen

    def _add_magnitude(self, p: Parameters, x: Tensor, gradients: Parameters, dense: bool) -> Step:
        """The magnitudes as an SAE with encoder exp(r_mag) · W_enc that fires where the gate is open."""
        b_gate, gain, b_mag = p.extra[0], p.extra[1].exp(), p.extra[2]
        view = Parameters(p.encoder * gain[:, None], p.decoder, b_mag, p.b_dec)
        got = view.zeros()
        low = (b_mag - gain * b_gate).clamp_min(0).cpu().numpy()  # m > low says π > 0 and m > 0
        seen = add_gradients(_Above(low), view, x, got, dense=dense)
        gradients.encoder.addcmul_(got.encoder, gain[:, None].expand_as(got.encoder))
        gradients.extra[1] += (got.encoder * view.encoder).sum(dim=1)
        gradients.extra[2] += got.b_enc
        gradients.decoder += got.decoder
        gradients.b_dec += got.b_dec
        return seen


class _Above:
    """Latents fire above given thresholds; none is revived."""

    aux_k = 0

    def __init__(self, low: Float32[ndarray, " d_sae"]) -> None:
        self.low = low

    def activate(self, pre: Float32[ndarray, "tokens d_sae"]) -> Sparse:
        return above(pre, self.low)

    def activate_dense(self, pre: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_sae"]:
        return pre * (pre > torch.from_numpy(self.low).to(pre.device))
