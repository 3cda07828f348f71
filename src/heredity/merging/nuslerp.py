"""NuSLERP: SLERP with weights instead of t, of models or of task vectors.  Source: mergekit 0.1.5."""

from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from heredity.gram import TensorGram
from heredity.merging._method import Inputs, PerModel, SpanMethod

_COLLINEAR = 1e-15  # of 1 − cos²: fp64 rounding of a cosine of 1 leaves 2e-16


class NuSlerp(SpanMethod, frozen=True, kw_only=True):
    """Spherical interpolation of two models; with a base, of their differences from it.

    `flatten` takes a tensor as one vector; otherwise each row (last axis), or with `row_wise` each column
    (first axis), turns by its own angle.
    """

    inputs: ClassVar = Inputs("optional", least=2, most=2)

    weight: PerModel = 1.0
    row_wise: bool = False
    flatten: bool = True

    def coefficients(self, gram: TensorGram) -> Float64[ndarray, "inputs"]:
        """Return the coefficients of base, first and second model."""
        first, second = self.per_model("weight", 2)
        t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
        deltas = gram.products[1:, 1:]
        norms = np.maximum(np.sqrt(deltas.diagonal()), 1e-7)
        cosine = np.clip(deltas[0, 1] / (norms[0] * norms[1]), -1, 1)
        parts = np.array([1 - t, t])
        if 1 - cosine**2 > _COLLINEAR:
            angle = np.arccos(cosine)
            parts = np.sin(parts * angle) / np.sin(angle)
        return np.array([1 - parts.sum(), *parts])

    @property
    def axis(self) -> Literal["tensor", "row", "column"]:
        """One angle for a tensor, a row or a column."""
        if self.flatten:
            return "tensor"
        return "column" if self.row_wise else "row"
