"""Model Stock: how far to go from the base to the mean follows from the angle between the task vectors.

Source: Jang et al. 2024, arXiv 2403.19522, eq. 9; conventions as mergekit 0.1.5.
"""

from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from heredity.gram import TensorGram
from heredity.merging._method import Inputs, SpanMethod


class ModelStock(SpanMethod, frozen=True, kw_only=True):
    """`t · mean of the models + (1 − t) · base`, with t = N c / (1 + (N − 1) c) and c the mean cosine."""

    inputs: ClassVar = Inputs("required", least=2)

    filter_wise: bool = False

    def coefficients(self, gram: TensorGram) -> Float64[ndarray, "inputs"]:
        """Return the coefficients of base and models."""
        deltas = gram.products[1:, 1:]
        count = len(deltas)
        norms = np.sqrt(deltas.diagonal())
        cosines = np.clip(deltas / np.maximum(np.outer(norms, norms), 1e-6), -1, 1)
        cosine = cosines[np.triu_indices(count, 1)].mean()
        divisor = 1 + (count - 1) * cosine
        t = 0.0 if abs(divisor) < 1e-6 else count * cosine / divisor
        return np.array([1 - t, *np.full(count, t / count)])

    @property
    def axis(self) -> Literal["tensor", "row", "column"]:
        """One t for a tensor, or with `filter_wise` for each row."""
        return "row" if self.filter_wise else "tensor"
