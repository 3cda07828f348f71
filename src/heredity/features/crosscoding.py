"""Crosscoders over a family: trained on several members' activations, and whose each latent is.

A latent's decoder is spread over the members. Its *relative norm* in a member is ‖d_m‖ / max over members, in
units in which every member's activations weigh the same. Shared: at least 0.8 in every member; exclusive: at
most 0.2 in all but its owners; between: graded.

A small norm alone can mislead: the training may have *shrunk* a member's decoder although the member has the
feature (it is then in the member's residual), or *decoupled* it (the member writes it with other latents).
*Latent scaling* finds both: with f the latent's activations and d its owner's direction, β(Y) is the least
squares scale of f·d in Y. ν_error compares a member's residual with the owner's (each with the latent's own part
put back), ν_reconstruction their reconstructions. An exclusive latent must have ν_error < 0.2 and
ν_reconstruction < 0.5 in each member that lacks it. All members must share one basis: a base and its fine-tunes.

Source: Lindsey et al. 2024 (Transformer Circuits, "Sparse Crosscoders"); Minder et al. 2025 (arXiv 2504.02922)
for latent scaling and the limits, two members there, any number here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Float64, Int64
from msgspec import Struct
from numpy import ndarray

from heredity.errors import MismatchError
from heredity.features.codes import Codes, CodesMeta
from heredity.features.initialise import input_scale, sample
from heredity.features.joint import JointStore
from heredity.features.sae._sae import SAE
from heredity.features.sae._variant import Sparse
from heredity.features.sae.crosscoder import Crosscoder
from heredity.features.store import ActivationStore
from heredity.features.train import Metrics, Training, train
from heredity.kernels import threshold

HAS, LACKS = 0.8, 0.2
NU_ERROR, NU_RECONSTRUCTION = 0.2, 0.5
_BATCH = 4096


def train_crosscoder(
    variant: Crosscoder,
    stores: Sequence[ActivationStore],
    training: Training,
    *,
    seed: int,
    checkpoint: Path | None = None,
    callback: Callable[[Metrics], None] | None = None,
    device: str = "cpu",
    progress: bool | None = None,
) -> SAE:
    """Train a crosscoder; see `train.train`.

    Args:
        variant: which members, how many latents.
        stores: one per member, in the order of `variant.members`, over one stream.
        training, seed, checkpoint, callback, device, progress: as in `train`.

    Returns:
        an SAE over the members' activations side by side, as they come: scales are folded in.

    Raises:
        MismatchError: the stores are of other members, sites or streams.
        StoreError: an activation is not finite.
    """
    _check_members(variant.members, stores)
    scales = [input_scale(sample(store, seed)) for store in stores]
    joint = JointStore(stores, scales)
    sae = train(
        variant, joint, training, seed=seed, checkpoint=checkpoint, callback=callback, device=device, progress=progress
    )  # fmt: skip
    column = torch.from_numpy(np.repeat(np.array(scales, np.float32), stores[0].d)).to(sae.device)
    return msgspec.structs.replace(
        sae,
        W_enc=sae.W_enc * column[:, None],
        W_dec=sae.W_dec / column,
        b_dec=sae.b_dec / column,
        metadata={**sae.metadata, "member_scales": scales},
    )


def encode_members(sae: SAE, stores: Sequence[ActivationStore]) -> Codes:
    """Encode every token of a stream with a crosscoder, from all members' activations.

    Raises:
        MismatchError: the stores are of other members, another width, or different streams.
    """
    joint = _joint(sae, stores)
    sae = msgspec.structs.replace(sae, W_enc=sae.W_enc.T.contiguous().T)  # once, not for every batch
    parts = [sae.codes(joint.read(start, start + _BATCH)) for start in range(0, joint.n_tokens, _BATCH)]
    indptr = np.zeros(joint.n_tokens + 1, np.int64)
    np.cumsum(np.concatenate([np.diff(p.indptr) for p in parts]), out=indptr[1:])
    codes = Sparse(
        indptr, np.concatenate([p.indices for p in parts]), np.concatenate([p.values for p in parts])
    )
    meta = CodesMeta(
        member=joint.meta.member, seed=int(sae.metadata.get("seed", 0)), site=joint.meta.site,
        stream_digest=joint.meta.stream_digest, context=joint.meta.context, n_tokens=joint.n_tokens,
        d_sae=sae.d_sae,
    )  # fmt: skip
    return Codes.of(meta, codes)


def some_tokens(codes: Codes, start: int, stop: int) -> Sparse:
    """Return the codes of tokens start … stop − 1."""
    first = codes.indptr[start : min(stop, codes.n_tokens) + 1]
    own = slice(first[0], first[-1])
    return Sparse(
        first - first[0], codes.latents[own].astype(np.int32), np.ascontiguousarray(codes.values[own])
    )


def relative_norms(sae: SAE) -> Float64[ndarray, "d_sae members"]:
    """Return each latent's decoder norm in each member, as a share of its largest."""
    norms = np.linalg.norm(_directions(sae), axis=2).T
    return norms / np.maximum(norms.max(axis=1, keepdims=True), 1e-30)


class Scaling(Struct, frozen=True, eq=False):
    """How much of each latent a member has beside the latent's own decoder there; 1 is as much as its owner.

    Attributes:
        error: ν_error [d_sae, members].
        reconstruction: ν_reconstruction [d_sae, members].
        firings: tokens on which each latent fires [d_sae].
    """

    error: Float64[ndarray, "d_sae members"]
    reconstruction: Float64[ndarray, "d_sae members"]
    firings: Int64[ndarray, " d_sae"]


def latent_scaling(sae: SAE, stores: Sequence[ActivationStore], codes: Codes | None = None) -> Scaling:
    """Measure ν_error and ν_reconstruction of every latent in every member, over a whole stream.

    Args:
        sae: a crosscoder.
        stores: one per member.
        codes: what `encode_members` made of these stores, if that is done already.

    Raises:
        MismatchError: the stores are of other members, another width, or different streams.
    """
    codes = encode_members(sae, stores) if codes is None else codes
    joint, directions = _joint(sae, stores), _directions(sae)
    n_members, d_sae, d = directions.shape
    owner = np.linalg.norm(directions, axis=2).argmax(axis=0)
    own = np.ascontiguousarray(directions[owner, np.arange(d_sae)])
    scales = np.repeat(_scales(sae), d)
    bias = sae.b_dec.cpu().numpy()
    squares, firings = np.zeros(d_sae), np.zeros(d_sae, np.int64)
    sums = np.zeros((2, n_members, d_sae))
    for start in range(0, joint.n_tokens, _BATCH):
        x, some = joint.read(start, start + _BATCH), some_tokens(codes, start, start + _BATCH)
        again = sae.expand(some)
        squares += np.bincount(some.indices, np.square(some.values, dtype=np.float64), minlength=d_sae)
        firings += np.bincount(some.indices, minlength=d_sae)
        for kind, target in enumerate(((x - again) * scales, (again - bias) * scales)):
            for m in range(n_members):
                slope = np.empty(len(some.values), np.float32)
                rows = np.ascontiguousarray(target[:, m * d : (m + 1) * d])
                threshold.row_products(some.indptr, some.indices, rows, own, slope)
                sums[kind, m] += np.bincount(some.indices, slope * some.values, minlength=d_sae)
    sums[0] += squares * np.einsum("mjd,jd->mj", directions, own)  # the latent's own part, put back
    whose = sums[:, owner, np.arange(d_sae)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(whose[:, None] > 0, sums / whose[:, None], np.nan)
    return Scaling(ratio[0].T, ratio[1].T, firings)


def crosscoder_table(
    sae: SAE, stores: Sequence[ActivationStore], *, codes: Codes | None = None, min_firings: int = 50
) -> pl.DataFrame:
    """Judge every latent of a crosscoder over a stream.

    Args:
        sae: a crosscoder.
        stores: one per member.
        codes: what `encode_members` made of these stores, if that is done already.
        min_firings: firings that make a latent more than rare.

    Returns:
        one row per latent: latent, firings, relative_norm (by member), owners (members that have it), by_norm
        (shared | exclusive | graded | rare | dead), nu_error and nu_reconstruction (the largest over the members that
        lack it; null where none does), nu_errors and nu_reconstructions (by member; null where the owner's is not
        positive), verdict: as by_norm, but an exclusive latent that fails latent scaling is *shrunk* or *decoupled*.
    """
    scaling, relative, members = latent_scaling(sae, stores, codes), relative_norms(sae), members_of(sae)
    has, lacks = relative >= HAS, relative <= LACKS
    fires = scaling.firings
    by_norm = np.select(
        [fires == 0, fires < min_firings, has.all(axis=1), (has | lacks).all(axis=1)],
        ["dead", "rare", "shared", "exclusive"],
        "graded",
    )
    worst = {
        name: np.where(lacks, getattr(scaling, name), -np.inf).max(axis=1)
        for name in ("error", "reconstruction")
    }
    judged = by_norm == "exclusive"
    verdict = np.select(
        [judged & ~(worst["error"] < NU_ERROR), judged & ~(worst["reconstruction"] < NU_RECONSTRUCTION)],
        ["shrunk", "decoupled"],
        by_norm,
    )
    table = pl.DataFrame(
        {
            "latent": np.arange(sae.d_sae),
            "firings": fires,
            "relative_norm": _by_member(members, relative),
            "owners": [[m for m, own in zip(members, row, strict=True) if own] for row in has],
            "by_norm": by_norm,
            "nu_error": worst["error"],
            "nu_reconstruction": worst["reconstruction"],
            "nu_errors": _by_member(members, scaling.error),
            "nu_reconstructions": _by_member(members, scaling.reconstruction),
            "verdict": verdict,
        },
        schema_overrides={"by_norm": pl.String, "verdict": pl.String},
    )
    nu = pl.col("nu_error", "nu_reconstruction")
    return table.with_columns(pl.when(nu.is_finite()).then(nu))


def _by_member(members: Sequence[str], values: Float64[ndarray, "d_sae members"]) -> pl.Series:
    columns = [pl.Series(name, values[:, m]).fill_nan(None) for m, name in enumerate(members)]
    return pl.DataFrame(columns).to_struct()


def members_of(sae: SAE) -> tuple[str, ...]:
    """Return the members that a crosscoder is over.

    Raises:
        MismatchError: it is another kind of SAE.
    """
    if not isinstance(sae.variant, Crosscoder):
        raise MismatchError(f"a {type(sae.variant).__name__} SAE is of one member", "give it a crosscoder")
    return sae.variant.members


def _directions(sae: SAE) -> Float32[ndarray, "members d_sae d"]:
    """Return the decoder of each member, in units in which all members' activations weigh the same."""
    n = len(members_of(sae))
    blocks = sae.W_dec.cpu().numpy().reshape(sae.d_sae, n, -1).transpose(1, 0, 2)
    return np.ascontiguousarray(blocks * _scales(sae)[:, None, None])


def _scales(sae: SAE) -> Float32[ndarray, " members"]:
    members = members_of(sae)
    scales = sae.metadata.get("member_scales", [1.0] * len(members))
    if len(scales) != len(members):
        raise MismatchError(
            f"crosscoder over {list(members)}: {len(scales)} member_scales in its record", "train it again"
        )
    return np.array(scales, np.float32)


def _joint(sae: SAE, stores: Sequence[ActivationStore]) -> JointStore:
    members = members_of(sae)
    _check_members(members, stores)
    joint = JointStore(stores, [1.0] * len(members))
    if joint.d != sae.d_in:
        raise MismatchError(
            f"activations of {list(members)} are {joint.d} wide together, the crosscoder's W_enc takes {sae.d_in}",
            "use the crosscoder of this site",
        )
    return joint


def _check_members(members: Sequence[str], stores: Sequence[ActivationStore]) -> None:
    names = [store.meta.member for store in stores]
    if names != list(members):
        raise MismatchError(
            f"the crosscoder is over {list(members)}, the stores are of {names}",
            "give one store per member, in the same order",
        )
