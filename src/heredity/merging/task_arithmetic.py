"""Task arithmetic: the base plus weighted task vectors.  Source: Ilharco et al. 2023, arXiv 2212.04089."""

from typing import ClassVar

import numpy as np
from jaxtyping import Float64
from msgspec import field
from numpy import ndarray

from heredity.gram import TensorGram
from heredity.merging._method import Inputs, PerModel, SpanMethod


class TaskArithmetic(SpanMethod, frozen=True, kw_only=True):
    """`base + lambda · Σ weight_i (model_i − base)`; a negative weight takes a skill away."""

    inputs: ClassVar = Inputs("required")
    needs_gram: ClassVar = False
    ignored: ClassVar = ("density", "int8_mask", "rescale")

    weight: PerModel = 1.0
    lambda_: float = field(default=1.0, name="lambda")
    normalize: bool = False

    def coefficients(self, gram: TensorGram) -> Float64[ndarray, "inputs"]:
        """Return the coefficients of base and models."""
        weights = self.lambda_ * self.per_model("weight", len(gram.members))
        if self.normalize:
            total = self.per_model("weight", len(gram.members)).sum()
            weights = weights / (total if abs(total) >= 1e-8 else 1.0)
        return np.array([1 - weights.sum(), *weights])
