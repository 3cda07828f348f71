"""Multi-SLERP: a weighted mean of models on the sphere.  Source: goddard.blog; as mergekit 0.1.5."""

from typing import ClassVar

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.gram import TensorGram
from heredity.merging._method import Inputs, PerModel, SpanMethod


class MultiSlerp(SpanMethod, frozen=True, kw_only=True):
    """One step from the mean direction along the mean tangent; with a base, of differences from it."""

    inputs: ClassVar = Inputs("optional", least=1)

    weight: PerModel = 1.0
    normalize_weights: bool = True
    eps: float = 1e-8

    def coefficients(self, gram: TensorGram) -> Float64[ndarray, "inputs"]:
        """Return the coefficients of base and models.

        Raises:
            ConfigError: the weighted directions of three or more models cancel, or the weights sum to zero.
        """
        inner = gram.products[1:, 1:]
        weights = np.array(self.per_model("weight", len(inner)))
        if len(weights) == 1:
            return np.array([0.0, 1.0])  # as the peer: one model is returned as it is
        if self.normalize_weights:
            if abs(weights.sum()) < 1e-12:
                raise ConfigError("multislerp: the weights sum to zero", "set normalize_weights = false")
            weights /= weights.sum()
        norms = np.sqrt(inner.diagonal())
        # Σ w_i u_i, written in the task vectors; one that is zero has no direction, and 1/eps of it would cancel
        summed = np.where(norms > 0, weights / (norms + self.eps), 0.0)
        length = np.sqrt(max(summed @ inner @ summed, 0.0))
        if length < self.eps:
            if len(weights) > 2 and norms.max() > 0:
                raise ConfigError(
                    f"multislerp: the weighted directions of the models cancel in {gram.name}",
                    "use other weights",
                )
            return np.array([1 - weights.sum(), *weights])
        mean = summed / length
        tangent = summed - (summed @ inner @ mean) * mean
        step = np.sqrt(max(tangent @ inner @ tangent, 0.0)) + self.eps
        result = (np.cos(step) * mean + np.sin(step) / step * tangent) * (weights @ norms)
        return np.array([1 - result.sum(), *result])
