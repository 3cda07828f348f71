"""Linear: a weighted mean of the models ("model soup").  Source: Wortsman et al. 2022, arXiv 2203.05482."""

from typing import ClassVar

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.gram import TensorGram
from heredity.merging._method import Inputs, PerModel, SpanMethod


class Linear(SpanMethod, frozen=True, kw_only=True):
    """Weighted sum of the models; divided by the sum of the weights unless `normalize` is false."""

    inputs: ClassVar = Inputs("ignored")
    needs_gram: ClassVar = False

    weight: PerModel = 1.0
    normalize: bool = True

    def coefficients(self, gram: TensorGram) -> Float64[ndarray, "inputs"]:
        """Return the weights, normalised.

        Raises:
            ConfigError: the weights to be normalised sum to zero.
        """
        weights = self.per_model("weight", 1 + len(gram.members))
        if not self.normalize:
            return np.array(weights)
        total = weights.sum()
        if abs(total) < 1e-12:
            raise ConfigError(
                "linear: the weights sum to zero and cannot be normalised", "set normalize = false"
            )
        return np.asarray(weights / total)
