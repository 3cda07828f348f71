"""L1: every positive pre-activation fires, and the loss charges for it.  Source: Bricken et al. 2023."""

from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32
from msgspec import Meta, convert
from numpy import ndarray
from torch import Tensor

from heredity.features.sae._variant import NO_EXTRA, Extra, Sparse, Variant
from heredity.kernels import sparse


class L1(Variant, frozen=True, kw_only=True):
    """ReLU codes with an L1 penalty; decoder rows have norm 1, so that the penalty cannot be escaped.

    Attributes:
        l1: weight of Σ codes per token beside Σ squared error per token, both over inputs scaled to a mean
            squared norm of d_in, and both divided by d_in.
    """

    architecture: ClassVar[str] = "standard"
    resampled: ClassVar[bool] = True

    l1: Annotated[float, Meta(ge=0)]

    def activate(self, pre: Float32[ndarray, "tokens d_sae"], extra: Extra = NO_EXTRA) -> Sparse:
        """Return every positive entry."""
        indptr = np.zeros(len(pre) + 1, np.int64)
        sparse.count_positive(pre, indptr[1:])
        np.cumsum(indptr, out=indptr)
        indices, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
        sparse.pack_positive(pre, indptr, indices, values)
        return Sparse(indptr, indices, values)

    def activate_dense(
        self, pre: Float[Tensor, "tokens d_sae"], extra: Extra = NO_EXTRA
    ) -> Float[Tensor, "tokens d_sae"]:
        """Return the positive part."""
        return pre.relu()

    def settings(self) -> dict[str, Any]:
        """Return nothing: the standard architecture has no settings of its own."""
        return {}

    @classmethod
    def read(cls, config: dict[str, Any], own: dict[str, Any] | None) -> "L1":
        """Return the variant of a cfg.json; SAELens does not keep the penalty there, so it reads as 0."""
        return convert(own, cls) if own else cls(d_sae=config["d_sae"], l1=0.0)

    @property
    def penalty(self) -> float:
        """The weight of Σ codes."""
        return self.l1

    @property
    def aux_k(self) -> int:
        """0: dead latents are resampled."""
        return 0
