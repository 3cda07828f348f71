"""NearSwap: take over what is already near, leave what is far.

Source: alchemonaut, QuartetAnemoi-70B (2024); conventions as mergekit 0.1.5.
"""

from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32
from msgspec import Meta
from numpy import ndarray

from heredity.kernels.elementwise import near_swap
from heredity.merging._method import Block, ElementMethod, Inputs, TensorBlocks


class NearSwap(ElementMethod, frozen=True, kw_only=True):
    """Each element goes to the model by min(1, t / distance): whole up to t, then less and less."""

    inputs: ClassVar = Inputs("first", least=1, most=1)

    t: Annotated[float, Meta(ge=0)]

    def survey(self, blocks: TensorBlocks) -> None:
        """Need nothing of the whole."""

    def combine(self, survey: None, block: Block) -> Float32[ndarray, "n"]:
        """Return the base moved towards the model."""
        out = np.empty_like(block.base)
        near_swap(block.base, block.models[0], np.float32(self.t), out)
        return out
