"""TopK: the k largest positive pre-activations fire.  Source: Gao et al. 2024 (arXiv 2406.04093)."""

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32
from msgspec import Meta, convert
from numpy import ndarray
from torch import Tensor

from heredity.features.sae._variant import NO_EXTRA, Extra, Sparse, Variant
from heredity.kernels import sparse


class TopK(Variant, frozen=True, kw_only=True):
    """At most k latents per token; dead ones are revived by a loss on what the live ones leave over.

    Attributes:
        k: latents per token.
        revive: dead latents per token that explain the residual; 0 switches revival off.
    """

    architecture: ClassVar[str] = "topk"

    k: Annotated[int, Meta(ge=1)]
    revive: Annotated[int, Meta(ge=0)] = 64

    def activate(self, pre: Float32[ndarray, "tokens d_sae"], extra: Extra = NO_EXTRA) -> Sparse:
        """Return the k largest positive entries of each row; of equal ones, the first."""
        return largest(pre, self.k)

    def activate_dense(
        self, pre: Float[Tensor, "tokens d_sae"], extra: Extra = NO_EXTRA
    ) -> Float[Tensor, "tokens d_sae"]:
        """Return the pre-activations with all but the k largest positive ones set to 0."""
        top = pre.topk(min(self.k, pre.shape[-1]), dim=-1)
        return torch.zeros_like(pre).scatter_(-1, top.indices, top.values.relu())

    def settings(self) -> dict[str, Any]:
        """Return k, and that decoder norms do not rescale the codes (they are 1)."""
        return {"k": self.k, "rescale_acts_by_decoder_norm": False}

    @classmethod
    def read(cls, config: dict[str, Any], own: dict[str, Any] | None) -> "TopK":
        """Return the variant of a cfg.json; of SAELens' own files, k and the width are known."""
        return convert(own, cls) if own else cls(d_sae=config["d_sae"], k=config["k"])

    @property
    def penalty(self) -> float:
        """0: k fixes the sparsity."""
        return 0.0

    @property
    def aux_k(self) -> int:
        """The auxiliary loss's k."""
        return self.revive


def largest(pre: Float32[ndarray, "tokens d_sae"], k: int) -> Sparse:
    """Return the at most k largest positive entries of each row."""
    n_tokens = len(pre)
    k = min(k, pre.shape[1])
    slots = np.empty((n_tokens, k), np.int32)
    kept = np.empty((n_tokens, k), np.float32)
    indptr = np.zeros(n_tokens + 1, np.int64)
    sparse.top_rows(pre, k, slots, kept, indptr[1:])
    np.cumsum(indptr, out=indptr)
    if indptr[-1] == slots.size:
        return Sparse(indptr, slots.reshape(-1), kept.reshape(-1))
    indices, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    sparse.pack_slots(slots, kept, indptr, indices, values)
    return Sparse(indptr, indices, values)
