"""A trained sparse autoencoder: two matrices, two biases, and the variant that says which latents fire."""

from typing import Any

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Float32
from msgspec import Struct
from numpy import ndarray
from torch import Tensor

from heredity.errors import MismatchError
from heredity.features.sae._variant import Extended, Sparse, Variant
from heredity.features.sae.topk import TopK
from heredity.features.selection import Layer, codes_of, largest_of
from heredity.kernels import sparse


class SAE(Struct, frozen=True, eq=False, kw_only=True):
    """x̂ = f W_dec + b_dec with f = activate((x − b_dec) W_enc + b_enc).

    Attributes:
        variant: which pre-activations fire.
        W_enc: [d_in, d_sae].
        W_dec: [d_sae, d_in], rows of norm 1.
        b_enc: [d_sae].
        b_dec: [d_in].
        extra: the variant's own weights, e.g. `threshold` [d_sae].
        metadata: where it comes from: member, site, seed, context, tokens trained on …
    """

    variant: Variant
    W_enc: Float32[Tensor, "d_in d_sae"]
    W_dec: Float32[Tensor, "d_sae d_in"]
    b_enc: Float32[Tensor, " d_sae"]
    b_dec: Float32[Tensor, " d_in"]
    extra: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}

    def __post_init__(self) -> None:
        d_in, d_sae = self.W_enc.shape
        shapes = {"W_dec": self.W_dec.shape, "b_enc": self.b_enc.shape, "b_dec": self.b_dec.shape}
        for name, want in {"W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}.items():
            if tuple(shapes[name]) != want:
                raise MismatchError(
                    f"SAE: {name} is {tuple(shapes[name])}, W_enc {(d_in, d_sae)}", f"{name} must be {want}"
                )
        if self.variant.d_sae != d_sae:
            raise MismatchError(
                f"SAE: the variant says {self.variant.d_sae} latents, W_enc is {(d_in, d_sae)}",
                "use the right cfg.json",
            )
        own = self.variant.extras if isinstance(self.variant, Extended) else ()
        for name in own:
            have = tuple(self.extra[name].shape) if name in self.extra else None
            if have != (d_sae,):
                raise MismatchError(
                    f"SAE: {name} is {have}, W_enc {(d_in, d_sae)}", f"{name} must be {(d_sae,)}"
                )

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return int(self.W_enc.shape[0])

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return int(self.W_enc.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the matrices are."""
        return self.W_enc.device

    def to(self, device: torch.device | str) -> "SAE":
        """Return the same SAE on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
        extra = {name: value.to(device) for name, value in self.extra.items()}
        return msgspec.structs.replace(self, extra=extra, **moved)

    def pre(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        """Return the pre-activations."""
        return torch.addmm(self.b_enc, x - self.b_dec, self.W_enc)

    def encode(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        """Return the codes of activations, dense."""
        return self.variant.activate_dense(self.pre(x), self.extra)

    def decode(self, codes: Float[Tensor, "tokens d_sae"]) -> Float[Tensor, "tokens d_in"]:
        """Return the activations that dense codes stand for."""
        return torch.addmm(self.b_dec, codes, self.W_dec)

    def codes(self, x: Float32[ndarray, "tokens d_in"]) -> Sparse:
        """Return the codes of activations, sparse; on the CPU the dense codes are never made."""
        if self.device.type != "cpu":
            pre = self.pre(torch.from_numpy(x).to(self.device))
            return _sparse(self.variant.activate_dense(pre, self.extra).cpu().numpy())
        centred, layer = torch.from_numpy(x) - self.b_dec, Layer(self.W_enc.T.contiguous(), self.b_enc)
        if isinstance(self.variant, TopK):
            dtype = self.metadata.get("training", {}).get("dtype", "float32")
            return largest_of(centred, layer, self.variant.k, dtype=dtype)[0]
        return codes_of(centred, layer, lambda pre: self.variant.activate(pre, self.extra))

    def expand(self, codes: Sparse) -> Float32[ndarray, "tokens d_in"]:
        """Return the activations that sparse codes stand for."""
        out = np.empty((codes.n_tokens, self.d_in), np.float32)
        weight, bias = self.W_dec.cpu().numpy(), self.b_dec.cpu().numpy()
        sparse.decode_rows(codes.indptr, codes.indices, codes.values, weight, bias, out)
        return out

    def reconstruct(self, x: Float[Tensor, "tokens d_in"]) -> tuple[Float[Tensor, "tokens d_in"], Sparse]:
        """Return x̂ and the codes it was made from."""
        codes = self.codes(x.float().cpu().numpy())
        return torch.from_numpy(self.expand(codes)).to(x), codes


def _sparse(dense: Float32[ndarray, "tokens d_sae"]) -> Sparse:
    token, latent = np.nonzero(dense > 0)
    indptr = np.zeros(len(dense) + 1, np.int64)
    np.cumsum(np.bincount(token, minlength=len(dense)), out=indptr[1:])
    return Sparse(indptr, latent.astype(np.int32), dense[token, latent])
