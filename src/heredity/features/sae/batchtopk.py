"""BatchTopK: the k·B largest pre-activations of a batch of B tokens fire; afterwards, a threshold decides.

A token gets as many latents as it needs, k on average. Source: Bussmann et al. 2024 (arXiv 2412.06410).
"""

from typing import Any, ClassVar

from heredity.features.sae._batch import OfBatch


class BatchTopK(OfBatch, frozen=True, kw_only=True):
    """k latents per token on average; dead ones are revived by a loss on what the live ones leave over.

    It is saved in SAELens' jumprelu layout.
    """

    architecture: ClassVar[str] = "jumprelu"
    reads_foreign: ClassVar[bool] = False

    def settings(self) -> dict[str, Any]:
        """Return nothing: SAELens reads the result as a JumpReLU SAE."""
        return {}
