"""SAEs in sparsify's layout, read only: cfg.json and sae.safetensors.  Source: EleutherAI's sparsify 1.3.

Its encoder takes x − b_dec, and the k largest latents fire: the function of `TopK`.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from heredity.errors import StoreError
from heredity.features.sae._files import read_json, read_tensors
from heredity.features.sae._sae import SAE
from heredity.features.sae.topk import TopK

WEIGHTS = "sae.safetensors"
_Width = Annotated[int, Meta(ge=1)]


class _Config(Struct, frozen=True):
    """What matters in a cfg.json of sparsify."""

    d_in: _Width
    k: _Width
    num_latents: Annotated[int, Meta(ge=0)] = 0
    expansion_factor: _Width = 32
    activation: str = "topk"
    signed: bool = False
    skip_connection: bool = False
    transcode: bool = False


_PLAIN = {"activation": "topk", "signed": False, "skip_connection": False, "transcode": False}


def load(path: Path) -> SAE:
    """Read an SAE that sparsify wrote; `num_latents` 0 stands for expansion_factor · d_in.

    Raises:
        StoreError: a file is missing or damaged, or the SAE is of a kind not known here.
        MismatchError: the weights' shapes do not fit the configuration.
    """
    record, weights = path / "cfg.json", path / WEIGHTS
    config = read_json(record, _Config)
    for name, plain in _PLAIN.items():
        if getattr(config, name) != plain:
            raise StoreError(
                f"{record}: {name} is {getattr(config, name)!r}, only {plain!r} is known here",
                "use a plain TopK autoencoder",
            )
    d_in, d_sae = config.d_in, config.num_latents or config.expansion_factor * config.d_in
    tensors = read_tensors(
        weights,
        {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)},
    )
    return SAE(
        variant=TopK(d_sae=d_sae, k=config.k),
        W_enc=tensors["encoder.weight"].T.contiguous(),
        W_dec=tensors["W_dec"],
        b_enc=tensors["encoder.bias"],
        b_dec=tensors["b_dec"],
        metadata={"member": "", "site": path.name},
    )
