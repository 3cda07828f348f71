"""What a variant of sparse autoencoder must say: which pre-activations fire, and what sparsity costs."""

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64
from msgspec import Struct
from numpy import ndarray
from torch import Tensor

if TYPE_CHECKING:
    from heredity.features.backward import Parameters, Step

Extra = Mapping[str, Tensor]
"""Weights that only some variants have, by their name in SAELens' files."""

NO_EXTRA: Extra = MappingProxyType({})


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

    reads_foreign: ClassVar[bool] = True
    """Whether other tools' files of this architecture are read as this variant."""

    has_b_enc: ClassVar[bool] = True
    """Whether files of this architecture hold `b_enc`; it is 0 where they do not."""

    resampled: ClassVar[bool] = False
    """Whether dead latents are given the direction of a badly explained token now and then."""

    d_sae: int

    @abstractmethod
    def activate(self, pre: Float32[ndarray, "tokens d_sae"], extra: Extra = NO_EXTRA) -> Sparse:
        """Return the latents that fire, from pre-activations on the CPU."""

    @abstractmethod
    def activate_dense(
        self, pre: Float[Tensor, "tokens d_sae"], extra: Extra = NO_EXTRA
    ) -> Float[Tensor, "tokens d_sae"]:
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
        """Dead latents that explain what is left over (AuxK); 0: none."""


class Extended(Variant, frozen=True, kw_only=True):
    """A variant with weights of its own beside the four common ones; it writes its own gradients.

    While it is trained its weights are the rows of `Parameters.extra`; Adam moves them by the gradients' rows.
    """

    extras: ClassVar[tuple[str, ...]]
    """Names of the weights in the finished SAE, each [d_sae]."""

    @abstractmethod
    def first_codes(self, pre: Float32[Tensor, "tokens d_sae"]) -> Float32[Tensor, "tokens d_sae"]:
        """Return what fires in the first step, were the encoder's rows of norm 1 and all biases 0."""

    @abstractmethod
    def begin(
        self, extra: Extra | None = None, scale: Float32[Tensor, " d_sae"] | None = None
    ) -> Float32[Tensor, "n_extra d_sae"]:
        """Return the first rows: fresh ones, or a finished SAE's; its pre-activations are then × `scale`."""

    @abstractmethod
    def finish(self, rows: Float32[Tensor, "n_extra d_sae"], scale: float) -> dict[str, Tensor]:
        """Return the finished SAE's weights; its inputs are no longer multiplied by `scale`."""

    @abstractmethod
    def add_gradients(
        self,
        p: "Parameters",
        x: Float32[Tensor, "tokens d_in"],
        gradients: "Parameters",
        *,
        progress: float,
        dead: Bool[ndarray, " d_sae"] | None = None,
        dense: bool = False,
    ) -> "Step":
        """Add the loss's gradients for one batch, as `backward.add_gradients` does.

        Args:
            p: the weights; only rows of `extra` that are no weights (running means) may be changed.
            x: activations, already scaled.
            gradients: added to in place.
            progress: share of the steps that this one completes, for penalties that rise.
            dead: latents that may explain the residual; none for no revival.
            dense: take the dense path; the only one off the CPU.
        """
