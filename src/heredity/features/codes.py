"""Sparse codes of one SAE over a stream, on disk, by token and by latent.

FOLDER/by_token.indptr · .latents · .values      tokens in order; latents ascend within a token
FOLDER/by_latent.starts · .tokens · .values      the same firings; tokens ascend within a latent
FOLDER/meta.json
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt
from msgspec import Struct
from numpy import ndarray

from heredity.atomic import replacing_folder
from heredity.errors import MismatchError, StoreError
from heredity.features.sae._sae import SAE
from heredity.features.sae._variant import Sparse
from heredity.features.store import ActivationStore
from heredity.kernels import sparse


class CodesMeta(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose codes, over which stream."""

    schema: int = 1
    member: str
    seed: int
    site: str
    stream_digest: str
    context: int
    n_tokens: int
    d_sae: int


class Codes:
    """The firings of one SAE on every token of a stream.

    Attributes:
        meta: whose they are.
        by_token: CSR by token; latents uint16 where they fit, else uint32.
        by_latent_starts, by_latent_tokens, by_latent_values: the same by latent.
    """

    def __init__(
        self,
        meta: CodesMeta,
        indptr: Int64[ndarray, " tokens_1"],
        latents: UInt[ndarray, " nnz"],
        values: Float32[ndarray, " nnz"],
        starts: Int64[ndarray, " latents_1"],
        tokens: UInt[ndarray, " nnz"],
        values_by_latent: Float32[ndarray, " nnz"],
    ) -> None:
        self.meta = meta
        self.indptr, self.latents, self.values = indptr, latents, values
        self.starts, self.tokens, self.values_by_latent = starts, tokens, values_by_latent

    @classmethod
    def of(cls, meta: CodesMeta, codes: Sparse) -> "Codes":
        """Index the codes of a whole stream by latent, in memory."""
        starts, tokens, places = sparse.by_latent(codes.indptr, codes.indices, meta.d_sae)
        kind = np.uint16 if meta.d_sae <= 1 << 16 else np.uint32
        return cls(
            meta, codes.indptr, codes.indices.astype(kind), codes.values, starts, tokens.astype(np.uint32),
            codes.values[places],
        )  # fmt: skip

    @classmethod
    def open(cls, path: Path | str) -> "Codes":
        """Map codes from disk.

        Raises:
            StoreError: they are missing, or a file has another size than it should.
        """
        path = Path(path)
        record = path / "meta.json"
        if not record.exists():
            raise StoreError(f"{path}: no sparse codes (no meta.json)", "encode the activations first")
        try:
            meta = msgspec.json.decode(record.read_bytes(), type=CodesMeta)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise StoreError(f"{record}: not the record of sparse codes ({error})", "encode again") from None
        arrays = [_map(path / name, kind) for name, kind in _files(meta.d_sae).items()]
        indptr, starts = arrays[0], arrays[3]
        sizes = [
            meta.n_tokens + 1,
            int(indptr[-1]),
            int(indptr[-1]),
            meta.d_sae + 1,
            int(indptr[-1]),
            int(indptr[-1]),
        ]
        if [len(a) for a in arrays] != sizes or starts[-1] != indptr[-1]:
            raise StoreError(
                f"{path}: the files are {[len(a) for a in arrays]} long, should be {sizes}", "encode again"
            )
        return cls(meta, *arrays)

    def save(self, path: Path | str) -> None:
        """Write the folder, whole or not at all."""
        with replacing_folder(Path(path)) as temporary:
            for (name, kind), array in zip(_files(self.meta.d_sae).items(), self._arrays(), strict=True):
                np.ascontiguousarray(array, kind).tofile(temporary / name)
            (temporary / "meta.json").write_bytes(msgspec.json.encode(self.meta))

    @property
    def n_tokens(self) -> int:
        """Tokens of the stream."""
        return self.meta.n_tokens

    @property
    def d_sae(self) -> int:
        """Latents of the SAE."""
        return self.meta.d_sae

    @property
    def l0(self) -> float:
        """Mean firings per token."""
        return len(self.values) / self.n_tokens

    @property
    def firings(self) -> Int64[ndarray, " latents"]:
        """Tokens on which each latent fires."""
        return np.diff(self.starts)

    @cached_property
    def sums(self) -> Float64[ndarray, " latents"]:
        """Σ values of each latent."""
        return self._reduce(self.values_by_latent)

    @cached_property
    def squares(self) -> Float64[ndarray, " latents"]:
        """Σ values² of each latent."""
        return self._reduce(np.square(self.values_by_latent, dtype=np.float64))

    @cached_property
    def inverse_norms(self) -> Float64[ndarray, " latents"]:
        """1 / ‖b − b̄‖ of each latent; 0 for one that never fires."""
        spread = self.squares - np.square(self.sums) / self.n_tokens
        alive = spread > 1e-12 * np.maximum(self.squares, 1e-300)
        return np.where(alive, 1 / np.sqrt(np.where(alive, spread, 1.0)), 0.0)

    def of_latent(self, latent: int) -> tuple[UInt[ndarray, " n"], Float32[ndarray, " n"]]:
        """Return the tokens on which a latent fires, and its values there."""
        where = slice(self.starts[latent], self.starts[latent + 1])
        return self.tokens[where], self.values_by_latent[where]

    def check_same_tokens(self, other: "Codes") -> None:
        """Check that two codes stand on the same tokens.

        Raises:
            MismatchError: they do not: nothing about them can be compared.
        """
        if self.meta.stream_digest != other.meta.stream_digest or self.n_tokens != other.n_tokens:
            raise MismatchError(
                f"codes of {self.meta.member} ({self.n_tokens} tokens) and of {other.meta.member} "
                f"({other.n_tokens}) are over different token streams",
                "features are compared on the same tokens only: harvest both over one stream",
            )

    def _arrays(self) -> tuple[ndarray, ...]:
        return self.indptr, self.latents, self.values, self.starts, self.tokens, self.values_by_latent

    def _reduce(self, values: ndarray) -> Float64[ndarray, " latents"]:
        out = np.zeros(self.d_sae)
        full = np.flatnonzero(self.firings)
        if len(full):
            out[full] = np.add.reduceat(values, self.starts[full], dtype=np.float64)
        return out


def encode(sae: SAE, store: ActivationStore, *, batch_tokens: int = 4096) -> Codes:
    """Encode every token of a store.

    Raises:
        MismatchError: the store is of another width than the SAE.
    """
    if store.d != sae.d_in:
        raise MismatchError(
            f"{store.path}: activations are {store.d} wide, the SAE's W_enc takes {sae.d_in}",
            "use the SAE of this site",
        )
    sae = msgspec.structs.replace(sae, W_enc=sae.W_enc.T.contiguous().T)  # once, not for every batch
    parts = [sae.codes(rows) for _, rows in store.batches(batch_tokens)]
    indptr = np.zeros(store.n_tokens + 1, np.int64)
    np.cumsum(np.concatenate([np.diff(p.indptr) for p in parts]), out=indptr[1:])
    codes = Sparse(
        indptr, np.concatenate([p.indices for p in parts]), np.concatenate([p.values for p in parts])
    )
    facts: dict[str, Any] = sae.metadata
    meta = CodesMeta(
        member=store.meta.member, seed=int(facts.get("seed", 0)), site=store.meta.site,
        stream_digest=store.meta.stream_digest, context=store.meta.context, n_tokens=store.n_tokens,
        d_sae=sae.d_sae,
    )  # fmt: skip
    return Codes.of(meta, codes)


def _files(d_sae: int) -> dict[str, str]:
    latent = "<u2" if d_sae <= 1 << 16 else "<u4"
    return {
        "by_token.indptr": "<i8", "by_token.latents": latent, "by_token.values": "<f4",
        "by_latent.starts": "<i8", "by_latent.tokens": "<u4", "by_latent.values": "<f4",
    }  # fmt: skip


def _map(path: Path, kind: str) -> ndarray:
    if not path.exists():
        raise StoreError(f"{path}: no such file", "encode the activations again")
    if path.stat().st_size == 0:
        return np.empty(0, kind)  # an empty file cannot be mapped
    return np.asarray(np.memmap(path, kind, "c"))  # private pages: kernels see a plain, writable array
