"""Adam over an SAE's weights with decoder rows on the unit sphere.

On the CPU one fused kernel per weight; elsewhere the same maths in torch.
Source: Kingma & Ba 2015; the rows on the sphere: Bricken et al. 2023.
"""

import math

import torch
from jaxtyping import Bool, Float32
from msgspec import Struct
from numpy import ndarray
from torch import Tensor

from heredity.features.backward import Firing, Parameters, Room, Step, groups, send_gradients
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
        if w.device.type == "cpu":
            self.update_rows(name, slice(None), w, g, rate)
        else:
            m, v = getattr(self.mean, name), getattr(self.square, name)
            self._update_torch(w, g, m, v, rate, name == "decoder")

    def update_rows(self, name: str, here: slice, weight: Tensor, gradient: Tensor, rate: float) -> None:
        """Take one step of some rows of a weight, on the CPU; set their gradient to zero."""
        moments = getattr(self.mean, name)[here], getattr(self.square, name)[here]
        rows = [t.reshape(-1, t.shape[-1]).numpy() for t in (weight[here], gradient, *moments)]
        sparse.adam(*rows, self.step, rate, self.beta1, self.beta2, self.epsilon, name == "decoder")

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


class _Descent:
    """Takes the step of some latents as soon as their gradients are known, and forgets these."""

    def __init__(self, p: Parameters, adam: Adam, rate: float) -> None:
        self.p, self.adam, self.rate = p, adam, rate
        self.b_dec = torch.zeros_like(p.b_dec)
        size = max(here.stop - here.start for here in groups(len(p.b_enc)))
        d_in = p.encoder.shape[1]
        self._zeros = Room(torch.zeros(size, d_in), torch.zeros(size, d_in), torch.zeros(size))

    def room(self, here: slice) -> Room:
        size = here.stop - here.start
        return Room(*(buffer[:size] for buffer in self._zeros))

    def done(self, here: slice) -> None:
        for name, gradient in zip(Room._fields, self.room(here), strict=True):
            self.adam.update_rows(name, here, getattr(self.p, name), gradient, self.rate)

    def finish(self) -> None:
        self.adam.update_rows("b_dec", slice(None), self.p.b_dec, self.b_dec, self.rate)


def descend(
    variant: Firing,
    p: Parameters,
    x: Float32[Tensor, "tokens d_in"],
    adam: Adam,
    rate: float,
    *,
    penalty: float = 0.0,
    dead: Bool[ndarray, " d_sae"] | None = None,
    dense: bool = False,
    dtype: str = "float32",
) -> Step:
    """Take one training step in place where `backward.streams` says so; the gradients are never held at once.

    Args:
        variant, p, x, penalty, dead, dense, dtype: as `backward.add_gradients` takes them.
        adam: moments; its step is counted.
        rate: learning rate.
    """
    adam.step += 1
    descent = _Descent(p, adam, rate)
    seen = send_gradients(variant, p, x, descent, penalty, dead, dense, dtype)
    descent.finish()
    return seen
