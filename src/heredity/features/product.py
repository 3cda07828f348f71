"""The one dense product that SAEs spend their time in: float32 rows times rows."""

import functools

import torch
from jaxtyping import Float32
from torch import Tensor


def by_rows(
    x: Float32[Tensor, "n d"], rows: Float32[Tensor, "m d"], bias: Float32[Tensor, " m"] | None = None
) -> Float32[Tensor, "n m"]:
    """Return x rowsᵀ + bias.

    On the CPU oneDNN multiplies: torch's default BLAS may know only half of a processor's vector width. It
    reads transposed views of `rows` as they are; `x` is copied if it is one. There is no gradient of it.
    """
    if x.device.type == "cpu" and x.numel() and rows.numel() and _has_onednn():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, rows, bias, "none", [], "")
        return product
    return x @ rows.T if bias is None else torch.addmm(bias, x, rows.T)


def chunk_tokens(d_sae: int) -> int:
    """Return how many tokens' pre-activations stay in a cache of 16 MiB, where the next step finds them."""
    return max(64, (1 << 22) // d_sae)


@functools.cache
def _has_onednn() -> bool:
    """The operator is torch's own for compiled models; a build may lack it."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
