"""JumpReLU: a latent fires above a threshold that is learned, and the loss charges for every firing.

The step has no slope, so the threshold's gradient is that of the step smoothed by a rectangle of width
`bandwidth` (a straight-through estimator). Source: Rajamanoharan et al. 2024 (arXiv 2407.14435), eq. 9–12.
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
from heredity.features.sae._threshold import Thresholded, above
from heredity.features.sae._variant import Extra, Sparse
from heredity.kernels import sparse, threshold

_Positive = Annotated[float, Meta(gt=0)]


class JumpReLU(Thresholded, frozen=True, kw_only=True):
    """Codes f = z where z > θ, else 0; the loss has L0 in it, not a stand-in; dead latents are revived.

    Inputs count as scaled to a mean squared norm of d_in. Beside squared error per token, a latent whose
    activation is below √l0 costs more than it explains, so θ ends near there.

    Attributes:
        l0: weight of the number of firings per token beside the squared error per token.
        threshold: θ of every latent at the start, in units of its encoder's norm; inputs along any direction
            have a mean square of about 1, so 2 lets a few in a hundred fire.
        bandwidth: width of the rectangle.
        warmup: share of the steps in which the charge rises from 0.
        revive: dead latents per token that explain the residual; 0 switches revival off.
    """

    architecture: ClassVar[str] = "jumprelu"

    l0: Annotated[float, Meta(ge=0)]
    threshold: _Positive = 2.0
    bandwidth: _Positive = 0.1
    warmup: Annotated[float, Meta(gt=0, le=1)] = 0.1
    revive: Annotated[int, Meta(ge=0)] = 64

    def first_codes(self, pre: Float32[Tensor, "tokens d_sae"]) -> Float32[Tensor, "tokens d_sae"]:
        """Return the entries above the threshold of the start."""
        return pre * (pre > self.threshold)

    def begin(
        self, extra: Extra | None = None, scale: Float32[Tensor, " d_sae"] | None = None
    ) -> Float32[Tensor, "1 d_sae"]:
        """Return log θ: Adam's steps on it are relative, and θ stays above 0."""
        theta = torch.full((self.d_sae,), self.threshold) if extra is None else extra["threshold"].cpu()
        return (theta if scale is None else theta * scale).clamp_min(1e-6).log()[None]

    def finish(self, rows: Float32[Tensor, "1 d_sae"], scale: float) -> dict[str, Tensor]:
        """Return θ."""
        return {"threshold": rows[0].exp() / scale}

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
        """Add the gradients of (Σ‖e‖² + l0 · firings + revival) / (B d)."""
        theta = p.extra[0].exp()
        jump = _Jump(self, theta)
        seen = add_gradients(jump, p, x, gradients, dead=dead, dense=dense)
        charge = self.l0 * min(1.0, progress / self.warmup)
        # d/dθ of z·step(z − θ) is −θ/bandwidth inside the rectangle, of the charge −charge/bandwidth
        explained, near = jump.at_the_edge(p, x)
        slope = -(2 * theta * explained + charge * near) / (self.bandwidth * x.numel())
        gradients.extra[0] += theta * slope
        return msgspec.structs.replace(seen, loss=seen.loss + charge * seen.n_codes / x.numel())

    def settings(self) -> dict[str, Any]:
        """Return nothing: the threshold is among the weights."""
        return {}

    @classmethod
    def read(cls, config: dict[str, Any], own: dict[str, Any] | None) -> "JumpReLU":
        """Return the variant of a cfg.json; SAELens does not keep the charge there, so it reads as 0."""
        return convert(own, cls) if own else cls(d_sae=config["d_sae"], l0=0.0)

    @property
    def aux_k(self) -> int:
        """The auxiliary loss's k."""
        return self.revive


class _Jump:
    """Which latents fire in one batch, and which are so near their threshold that it feels them."""

    def __init__(self, variant: JumpReLU, theta: Float32[Tensor, " d_sae"]) -> None:
        self.aux_k, self.theta, self.half = variant.revive, theta, variant.bandwidth / 2
        self.sparse: tuple[Sparse, Sparse] | None = None
        self.dense: tuple[Tensor, Tensor] | None = None

    def activate(self, pre: Float32[ndarray, "tokens d_sae"]) -> Sparse:
        theta = self.theta.numpy()
        near = above(pre, theta - np.float32(self.half))
        row = np.repeat(np.arange(near.n_tokens), np.diff(near.indptr))
        edge = _only(near, row, near.values < theta[near.indices] + np.float32(self.half))
        codes = _only(near, row, near.values > theta[near.indices])
        self.sparse = codes, edge
        return codes

    def activate_dense(self, pre: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_sae"]:
        codes = pre * (pre > self.theta)
        if pre.device.type == "cpu":  # few entries are near a threshold: gathering them beats two products
            self.activate(pre.numpy())
        else:
            self.dense = codes.clone(), (pre - self.theta).abs() < self.half
        return codes

    def at_the_edge(self, p: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return Σ e · W_dec over the tokens near each latent's threshold, e = x̂ − x, and their number."""
        if self.dense is not None:
            dense, near = self.dense
            error = torch.addmm(p.b_dec, dense, p.decoder) - x
            return (error @ p.decoder.T).mul_(near).sum(dim=0), near.sum(dim=0).float()
        assert self.sparse is not None, "activate comes first"
        (codes, edge), decoder, n = self.sparse, p.decoder.numpy(), len(p.b_enc)
        left = np.empty(tuple(x.shape), np.float32)
        sparse.decode_rows(codes.indptr, codes.indices, codes.values, decoder, p.b_dec.numpy(), left)
        left -= x.numpy()
        slope = np.empty(len(edge.values), np.float32)
        threshold.row_products(edge.indptr, edge.indices, left, decoder, slope)
        sums = np.bincount(edge.indices, slope, minlength=n), np.bincount(edge.indices, minlength=n)
        return torch.from_numpy(sums[0]).float(), torch.from_numpy(sums[1]).float()


def _only(codes: Sparse, row: ndarray, keep: Bool[ndarray, " nnz"]) -> Sparse:
    indptr = np.zeros_like(codes.indptr)
    np.cumsum(np.bincount(row[keep], minlength=codes.n_tokens), out=indptr[1:])
    return Sparse(indptr, codes.indices[keep], codes.values[keep])
