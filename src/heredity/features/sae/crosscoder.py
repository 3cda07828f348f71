"""Crosscoder: one code for several models at once, read from all of them and decoded into each.

An SAE over the members' activations side by side (`JointStore`), with BatchTopK's choice of what fires.
Decoder rows have norm 1 over all members together, so a latent's height counts the same whether one member
has it or all; how the norm is spread over the members says whose it is (features/crosscoding.py).
Source: Lindsey et al. 2024 (Transformer Circuits, "Sparse Crosscoders"); BatchTopK: Minder et al. 2025
(arXiv 2504.02922).
"""

from typing import Annotated, Any, ClassVar

from jaxtyping import Bool, Float, Float32
from msgspec import Meta, convert
from numpy import ndarray
from torch import Tensor

from heredity.errors import ConfigError
from heredity.features.backward import Parameters, Step
from heredity.features.sae._threshold import above, floor_of
from heredity.features.sae._variant import NO_EXTRA, Extended, Extra, Sparse
from heredity.features.sae.batchtopk import batch_gradients, first_threshold, largest_codes


class Crosscoder(Extended, frozen=True, kw_only=True):
    """k latents per token on average for all members together.

    Attributes:
        members: whose activations stand side by side, in order.
        k: latents per token, on average.
        revive: dead latents per token that explain the residual; 0 switches revival off.
    """

    architecture: ClassVar[str] = "crosscoder"
    extras: ClassVar[tuple[str, ...]] = ("threshold",)

    members: tuple[str, ...]
    k: Annotated[int, Meta(ge=1)]
    revive: Annotated[int, Meta(ge=0)] = 64

    def __post_init__(self) -> None:
        if len(self.members) < 2 or len(set(self.members)) < len(self.members):
            raise ConfigError(
                f"members {list(self.members)}: a crosscoder needs several", "name at least two, each once"
            )

    def activate(self, pre: Float32[ndarray, "tokens d_sae"], extra: Extra = NO_EXTRA) -> Sparse:
        """Return the entries above the threshold."""
        return above(pre, floor_of(extra["threshold"]))

    def activate_dense(
        self, pre: Float[Tensor, "tokens d_sae"], extra: Extra = NO_EXTRA
    ) -> Float[Tensor, "tokens d_sae"]:
        """Return the pre-activations with all that are not above the threshold set to 0."""
        return pre * (pre > extra["threshold"].clamp_min(0))

    def first_codes(self, pre: Float32[Tensor, "tokens d_sae"]) -> Float32[Tensor, "tokens d_sae"]:
        """Return the largest entries of the batch."""
        return largest_codes(pre, self.k)

    def begin(
        self, extra: Extra | None = None, scale: Float32[Tensor, " d_sae"] | None = None
    ) -> Float32[Tensor, "1 d_sae"]:
        """Return the running mean of the smallest activation kept: unknown, or what it was."""
        return first_threshold(self.d_sae, extra, scale)

    def finish(self, rows: Float32[Tensor, "1 d_sae"], scale: float) -> dict[str, Tensor]:
        """Return the threshold of every latent, which is the same one."""
        return {"threshold": rows[0] / scale}

    def add_gradients(
        self,
        p: Parameters,
        x: Float32[Tensor, "tokens d_in"],
        gradients: Parameters,
        *,
        progress: float,
        dead: Bool[ndarray, " d_sae"] | None = None,
        dense: bool = False,
    ) -> Step:
        """Add the gradients of squared error and revival, and take the batch into the running mean."""
        return batch_gradients(self.k, self.revive, p, x, gradients, dead, dense)

    def settings(self) -> dict[str, Any]:
        """Return the members; SAELens has no such architecture and refuses the file."""
        return {"members": list(self.members)}

    @classmethod
    def read(cls, config: dict[str, Any], own: dict[str, Any] | None) -> "Crosscoder":
        """Return the variant of a cfg.json."""
        return convert(own, cls)

    @property
    def penalty(self) -> float:
        """0: k fixes the sparsity."""
        return 0.0

    @property
    def aux_k(self) -> int:
        """The auxiliary loss's k."""
        return self.revive
