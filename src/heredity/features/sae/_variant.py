"""What a variant of sparse autoencoder must say: which pre-activations fire, and what sparsity costs."""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64
from msgspec import Struct
from numpy import ndarray
from torch import Tensor


class Sparse(Struct, frozen=True):
    """Codes of a run of tokens: CSR, latents ascending within a token, values > 0."""

    indptr: Int64[ndarray, " tokens_1"]
    indices: Int32[ndarray, " nnz"]
    values: Float32[ndarray, " nnz"]

    @property
    def n_tokens(self) -> int:
        """Tokens, those without a code included."""
        return len(self.indptr) - 1

    def dense(self, d_sae: int) -> Float32[ndarray, "tokens d_sae"]:
        """Return the codes with their zeros."""
        out = np.zeros((self.n_tokens, d_sae), np.float32)
        out[np.repeat(np.arange(self.n_tokens), np.diff(self.indptr)), self.indices] = self.values
        return out


class Variant(Struct, frozen=True, kw_only=True, tag=True):
    """A kind of sparse autoencoder with its settings; a frozen value.

    Attributes:
        d_sae: latents.
    """

    architecture: ClassVar[str]
    """The name of the variant in SAELens' cfg.json."""

    d_sae: int

    @abstractmethod
    def activate(self, pre: Float32[ndarray, "tokens d_sae"]) -> Sparse:
        """Return the latents that fire, from pre-activations on the CPU."""

    @abstractmethod
    def activate_dense(self, pre: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_sae"]:
        """Return the same as a dense tensor, on any device."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the variant's own entries in cfg.json."""

    @classmethod
    @abstractmethod
    def read(cls, config: dict[str, Any], own: dict[str, Any] | None) -> "Variant":
        """Return the variant of a cfg.json; `own` is what heredity itself wrote there, if it did."""

    @property
    @abstractmethod
    def penalty(self) -> float:
        """Weight of Σ codes in the loss, over normalised activations; 0 when sparsity is built in."""

    @property
    @abstractmethod
    def aux_k(self) -> int:
        """Dead latents that explain what is left over (AuxK); 0: dead latents are resampled instead."""
