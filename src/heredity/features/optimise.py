"""Adam over an SAE's weights with decoder rows on the unit sphere.

On the CPU one fused kernel per weight; elsewhere the same maths in torch.
Source: Kingma & Ba 2015; the rows on the sphere: Bricken et al. 2023.
"""

import math

import torch
from jaxtyping import Bool
from msgspec import Struct
from numpy import ndarray
from torch import Tensor

from heredity.features.backward import Parameters
from heredity.kernels import sparse


class Adam(Struct, eq=False):
    """First and second moments of every weight.

    Attributes:
        mean, square: running means of gradients and of their squares.
        step: steps taken.
    """

    mean: Parameters
    square: Parameters
    step: int = 0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    @classmethod
    def start(cls, p: Parameters, beta1: float = 0.9, beta2: float = 0.999) -> "Adam":
        """Return moments of zero."""
        return cls(p.zeros(), p.zeros(), beta1=beta1, beta2=beta2)

    def update(self, p: Parameters, gradients: Parameters, rate: float) -> None:
        """Take one step in place, and set the gradients to zero."""
        self.step += 1
        for name in p.__struct_fields__:
            self._update(name, p, gradients, rate)

    def forget(self, latents: Bool[ndarray, " d_sae"]) -> None:
        """Set the moments of some latents to zero, after they were given new weights."""
        where = torch.from_numpy(latents).to(self.mean.b_enc.device)
        for moments in (self.mean, self.square):
            for name in ("encoder", "decoder", "b_enc"):
                getattr(moments, name)[where] = 0
            if len(moments.extra):
                moments.extra[:, where] = 0

    def _update(self, name: str, p: Parameters, gradients: Parameters, rate: float) -> None:
        w, g = getattr(p, name), getattr(gradients, name)
        m, v = getattr(self.mean, name), getattr(self.square, name)
        unit = name == "decoder"
        if w.device.type == "cpu":
            rows = [t.reshape(-1, t.shape[-1]).numpy() for t in (w, g, m, v)]
            sparse.adam(*rows, self.step, rate, self.beta1, self.beta2, self.epsilon, unit)
        else:
            self._update_torch(w, g, m, v, rate, unit)

    def _update_torch(self, w: Tensor, g: Tensor, m: Tensor, v: Tensor, rate: float, unit: bool) -> None:
        if unit:
            g -= (g * w).sum(dim=1, keepdim=True) * w
        m.mul_(self.beta1).add_(g, alpha=1 - self.beta1)
        v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        scale = 1 / math.sqrt(1 - self.beta2**self.step)
        w -= rate / (1 - self.beta1**self.step) * m / (v.sqrt() * scale + self.epsilon)
        if unit:
            w /= w.norm(dim=1, keepdim=True)
        g.zero_()
