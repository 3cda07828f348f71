"""RegMean: the linear layers that best reproduce every model's outputs on its own inputs.

Source: Jin et al. 2023, arXiv 2212.09849, eq. 2.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float, Float32
from msgspec import Meta
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.merging._method import DataMethod, Inputs
from heredity.statistics import Statistics


class RegMean(DataMethod, frozen=True, kw_only=True):
    """`W = (Σ W_i G_i)(Σ G_i)⁻¹`, with G_i the inner products of inputs per token, off-diagonals times alpha.

    `ridge` adds that share of the mean diagonal, so that inputs that never fire do not make the sum singular;
    there the mean of the models is kept. Other tensors are averaged.
    """

    inputs: ClassVar = Inputs("ignored", least=1)

    alpha: Annotated[float, Meta(ge=0, le=1)] = 0.9
    ridge: Annotated[float, Meta(ge=0)] = 1e-6

    def solve(
        self,
        name: str,
        weights: Sequence[Float[ndarray, "..."]],
        statistics: Sequence[Statistics],
        transposed: bool,
    ) -> Float32[ndarray, "..."] | None:
        """Return the merged weight of a linear layer; see `DataMethod.solve`."""
        if weights[0].ndim != 2 or not all(s.has_input_gram(name) for s in statistics):
            return None
        rows = [np.asarray(w if not transposed else w.T, np.float64) for w in weights]  # [out, in]
        total = np.zeros((rows[0].shape[1],) * 2)
        wanted = np.zeros_like(rows[0])
        for row, known in zip(rows, statistics, strict=True):
            gram = known.input_gram(name)
            shrunk = self.alpha * gram + (1 - self.alpha) * np.diag(gram.diagonal())
            total += shrunk
            wanted += row @ shrunk
        mean = np.mean(rows, axis=0)
        added = self.ridge * total.diagonal().mean() if total.any() else 1.0
        # the ridge pulls towards the mean, so a dead input keeps the mean of the models
        try:
            solution = np.linalg.solve(total + added * np.eye(len(total)), (wanted + added * mean).T).T
        except np.linalg.LinAlgError:
            raise ConfigError(
                f"regmean: the inputs of {name} are linearly dependent", "set ridge = 1e-6"
            ) from None
        return np.asarray(solution.T if transposed else solution, np.float32)
