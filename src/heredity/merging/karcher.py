"""Karcher: the centre of mass of the models on the sphere.  Source: Karcher 1977; as mergekit 0.1.5."""

from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float64
from msgspec import Meta
from numpy import ndarray

from heredity.gram import TensorGram
from heredity.merging._method import Inputs, SpanMethod


class Karcher(SpanMethod, frozen=True, kw_only=True):
    """Karcher mean of the directions, times the mean norm; found in coefficients, not in weights."""

    inputs: ClassVar = Inputs("ignored")

    max_iter: Annotated[int, Meta(ge=0)] = 10
    tol: Annotated[float, Meta(gt=0)] = 1e-5

    def coefficients(self, gram: TensorGram) -> Float64[ndarray, "inputs"]:
        """Return the coefficients of the models."""
        raw = gram.raw()
        norms = np.sqrt(raw.diagonal())
        if len(norms) == 1:
            return np.ones(1)
        used = np.flatnonzero(norms > self.tol)
        result = np.zeros(len(norms))
        if used.size:
            units = raw[np.ix_(used, used)] / np.outer(norms[used], norms[used])
            mean = _mean_direction(units, self.max_iter, self.tol)
            result[used] = (
                mean / norms[used] * norms.mean()
            )  # tensors of no norm still count in the mean norm
        return result


def _mean_direction(units: Float64[ndarray, "k k"], max_iter: int, tol: float) -> Float64[ndarray, "k"]:
    """Return the mean direction as coefficients of the unit vectors whose inner products are `units`."""
    share = np.full(len(units), 1 / len(units))
    length = _norm(units, share)
    mean = share / length if length >= tol else np.eye(len(units))[0]
    for _ in range(max_iter):
        cosines = np.clip(units @ mean, -1, 1)
        angles = np.arccos(cosines)
        far = angles >= tol
        pull = np.where(far, share * angles / np.where(far, np.sin(angles), 1), 0.0)
        tangent = pull - (pull @ cosines) * mean
        step = _norm(units, tangent)
        if step < tol:
            break
        mean = np.cos(step) * mean + np.sin(step) / step * tangent
        length = _norm(units, mean)
        if length > tol:
            mean = mean / length
    return mean


def _norm(inner: Float64[ndarray, "k k"], coefficients: Float64[ndarray, "k"]) -> float:
    return float(np.sqrt(max(coefficients @ inner @ coefficients, 0.0)))
