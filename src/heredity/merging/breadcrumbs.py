"""Model Breadcrumbs: drop the largest and the smallest changes, add up what lies between.

Source: Davari & Belilovsky 2024, arXiv 2312.06795; conventions as mergekit 0.1.5.
"""

from typing import ClassVar

from heredity.merging._method import PerModel, TensorBlocks
from heredity.merging._sparse import SparseMethod
from heredity.merging._sparsify import Band, Sparsifier, below_outliers


class Breadcrumbs(SparseMethod, frozen=True, kw_only=True):
    """Drop the `gamma` largest, keep the `density` just below, add up."""

    consensus: ClassVar = False

    gamma: PerModel = 0.01
    normalize: bool = False
    rescale: bool = False

    def sparsifier(self, index: int, blocks: TensorBlocks, draw_key: int) -> Sparsifier | Band:
        """Return what keeps a band of magnitudes below the outliers."""
        density = float(self.per_model("density", len(blocks.models))[index])
        gamma = float(self.per_model("gamma", len(blocks.models))[index])
        return below_outliers(density, gamma, blocks.size)
