"""TIES: keep the largest changes, elect a sign for each element, average those that agree.

Source: Yadav et al. 2023, arXiv 2306.01708; conventions as mergekit 0.1.5.
"""

from typing import ClassVar

from heredity.merging._method import TensorBlocks
from heredity.merging._sparse import SparseMethod
from heredity.merging._sparsify import Band, Sparsifier, top_share


class Ties(SparseMethod, frozen=True, kw_only=True):
    """Trim, elect sign, disjoint merge; `density` is the share of each task vector kept, per tensor."""

    consensus: ClassVar = True

    normalize: bool = True
    rescale: bool = False

    def sparsifier(self, index: int, blocks: TensorBlocks, draw_key: int) -> Sparsifier | Band:
        """Return what keeps the largest `density` of a tensor."""
        density = float(self.per_model("density", len(blocks.models))[index])
        return top_share(density, blocks.size)
