"""Crosscoder: one code for several models at once, read from all of them and decoded into each.

An SAE over the members' activations side by side (`JointStore`), with BatchTopK's choice of what fires.
Decoder rows have norm 1 over all members together, so a latent's height counts the same whether one member
has it or all; how the norm is spread over the members says whose it is (features/crosscoding.py).
Source: Lindsey et al. 2024 (Transformer Circuits, "Sparse Crosscoders"); BatchTopK: Minder et al. 2025
(arXiv 2504.02922).
"""

from typing import Any, ClassVar

from heredity.errors import ConfigError
from heredity.features.sae._batch import OfBatch


class Crosscoder(OfBatch, frozen=True, kw_only=True):
    """k latents per token on average for all members together.

    Attributes:
        members: whose activations stand side by side, in order.
    """

    architecture: ClassVar[str] = "crosscoder"

    members: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.members) < 2 or len(set(self.members)) < len(self.members):
            raise ConfigError(
                f"members {list(self.members)}: a crosscoder needs several", "name at least two, each once"
            )

    def settings(self) -> dict[str, Any]:
        """Return the members; SAELens has no such architecture and refuses the file."""
        return {"members": list(self.members)}
