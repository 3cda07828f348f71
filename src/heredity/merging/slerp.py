"""SLERP: walk the great circle between two checkpoints.  Source: Shoemake 1985; numbers as mergekit 0.1.5."""

from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float64
from msgspec import Meta
from numpy import ndarray

from heredity.gram import TensorGram
from heredity.merging._method import Inputs, SpanMethod

NEARLY_COLLINEAR = 0.9995  # about 3.2 % relative change: below it the sphere is flat and SLERP is lerp
NO_DIRECTION = 1e-8  # a tensor of smaller norm is divided by 1


class Slerp(SpanMethod, frozen=True, kw_only=True):
    """Spherical interpolation from the base (t = 0) to the other model (t = 1)."""

    inputs: ClassVar = Inputs("first", least=1, most=1)

    t: Annotated[float, Meta(ge=0, le=1)]

    def coefficients(self, gram: TensorGram) -> Float64[ndarray, "inputs"]:
        """Return the coefficients of base and model: sines of the angle, or 1 − t and t where it is small."""
        cosine = cosine_of(gram)
        if abs(cosine) > NEARLY_COLLINEAR:  # sin θ would cancel: lerp, as the peer does
            return np.array([1 - self.t, self.t])
        angle = np.arccos(cosine)
        return np.asarray(np.sin([(1 - self.t) * angle, self.t * angle]) / np.sin(angle))

    def falls_back(self, gram: TensorGram) -> bool:
        """Say whether a tensor's two sides are so close that SLERP is lerp."""
        return abs(cosine_of(gram)) > NEARLY_COLLINEAR


def cosine_of(gram: TensorGram) -> float:
    """Return the cosine between the weights of the first two inputs, 0 where one of them is zero."""
    raw = gram.raw()
    norms = np.sqrt(raw.diagonal())
    norms = np.where(norms > NO_DIRECTION, norms, 1.0)
    return float(np.clip(raw[0, 1] / (norms[0] * norms[1]), -1, 1))
