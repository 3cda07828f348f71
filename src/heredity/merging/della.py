"""DELLA: drop changes at random, small ones more often, then elect signs and average.

Source: Deep et al. 2024, arXiv 2406.11617; conventions as mergekit 0.1.5.
"""

from typing import ClassVar

from heredity.merging._method import PerModel, TensorBlocks
from heredity.merging._sparse import SparseMethod
from heredity.merging._sparsify import Band, Sparsifier, at_random_by_rank


class Della(SparseMethod, frozen=True, kw_only=True):
    """Keep with a probability from density − epsilon (smallest of a row) to density + epsilon."""

    consensus: ClassVar = True

    rows: ClassVar = True

    epsilon: PerModel = 0.15
    normalize: bool = True
    rescale: bool = True

    def sparsifier(self, index: int, blocks: TensorBlocks, draw_key: int) -> Sparsifier | Band:
        """Return what keeps an element with a probability that grows with its rank in its row."""
        density = float(self.per_model("density", len(blocks.models))[index])
        epsilon = float(self.per_model("epsilon", len(blocks.models))[index])
        width = blocks.shape[-1] if blocks.shape else 1
        return at_random_by_rank(density, epsilon, width, draw_key)
