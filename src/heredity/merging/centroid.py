"""Centroid: the plain mean of a group of models.  Source: Gueta et al. 2023, arXiv 2302.04863, §4."""

from typing import ClassVar

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from heredity.gram import TensorGram
from heredity.merging._method import Inputs, SpanMethod


class Centroid(SpanMethod, frozen=True, kw_only=True):
    """The mean of the models; a recipe's `members` or `labels` pick them from a family."""

    inputs: ClassVar = Inputs("ignored")
    needs_gram: ClassVar = False

    def coefficients(self, gram: TensorGram) -> Float64[ndarray, "inputs"]:
        """Return 1/n for each model."""
        count = 1 + len(gram.members)
        return np.full(count, 1 / count)
