"""Passthrough: copy tensors, or stack slices of layers ("frankenmerge").  Source: mergekit 0.1.5."""

from typing import ClassVar

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from heredity.gram import TensorGram
from heredity.merging._method import Inputs, PerModel, SpanMethod


class Passthrough(SpanMethod, frozen=True, kw_only=True):
    """The one model of a slice, times `scale`."""

    inputs: ClassVar = Inputs("ignored", most=1)
    needs_gram: ClassVar = False

    scale: PerModel = 1.0

    def coefficients(self, gram: TensorGram) -> Float64[ndarray, "inputs"]:
        """Return the scale."""
        return np.array(self.per_model("scale", 1))
