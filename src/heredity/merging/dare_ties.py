"""DARE with TIES: drop changes at random, rescale, then elect signs.

Source: Yu et al. 2024, arXiv 2311.03099; conventions as mergekit 0.1.5.
"""

from typing import ClassVar

from heredity.merging._method import TensorBlocks
from heredity.merging._sparse import SparseMethod
from heredity.merging._sparsify import Band, Sparsifier, at_random


class DareTies(SparseMethod, frozen=True, kw_only=True):
    """Random drop with L1 matching, then the sum of the changes that agree with the elected sign."""

    consensus: ClassVar = True

    normalize: bool = False
    rescale: bool = True

    def sparsifier(self, index: int, blocks: TensorBlocks, draw_key: int) -> Sparsifier | Band:
        """Return what keeps an element with probability `density`."""
        density = float(self.per_model("density", len(blocks.models))[index])
        return at_random(density, draw_key)
