"""Where an SAE starts: input scale, geometric median, random unit decoder rows with a tied encoder.

Or at another SAE, usually the parent's (`heredity train --init SAE`): then latent i of the child is what
became of latent i of the parent, and no longer a seed of its own.
"""

from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray
from torch import Tensor

from heredity.errors import MismatchError, StoreError
from heredity.features.backward import Parameters
from heredity.features.joint import Activations, JointStore
from heredity.features.sae._sae import SAE
from heredity.features.sae._variant import Extended, Variant
from heredity.seeds import generator

_SAMPLE = 16_384
_FIRST = 2048
_BLOCK = 1024


def first_parameters(
    variant: Variant, store: Activations, seed: int, start: SAE | None = None
) -> tuple[Parameters, float]:
    """Return the weights that training begins with, and the scale of its inputs.

    Args:
        variant: which kind of SAE.
        store: activations to learn from.
        seed: of the sample, and of the weights where they are drawn.
        start: an SAE of the same kind and shape to go on from; none: weights are drawn.

    Raises:
        StoreError: activations are all zero or not finite.
        MismatchError: `start` is of another kind or shape.
    """
    rows = sample(store, seed)
    scale = input_scale(rows)
    if start is not None:
        return warm_parameters(start, variant, store, scale), scale
    median = geometric_median(rows) * scale
    few = torch.from_numpy((rows[:: -(-len(rows) // _FIRST)] * scale).astype(np.float32))
    del rows  # hundreds of megabytes for a wide site
    p = random_parameters(store.d, variant.d_sae, median, seed)
    if isinstance(variant, Extended):
        size = first_size(variant, p, few)
        p.encoder *= size
        p.extra = variant.begin(None, torch.full((variant.d_sae,), size))
    return p, scale


def sample(store: Activations, seed: int) -> Float64[ndarray, "n d"]:
    """Return rows of a store drawn without replacement, at most 16,384.

    Raises:
        StoreError: one is not finite.
    """
    rows = np.sort(generator(seed, "sae sample").permutation(store.n_tokens)[:_SAMPLE])
    values = store.take(rows)
    check_finite(store, rows, values, step=0)
    return values.astype(np.float64)


def check_finite(
    store: Activations, rows: Int64[ndarray, " n"], values: Float32[ndarray, "n d"], *, step: int
) -> None:
    """Check the activations of one batch, rows `rows` of a store.

    Raises:
        StoreError: one is not finite; the message names member, site, step, shard and token.
    """
    bad = np.argwhere(~np.isfinite(values))
    if not len(bad):
        return
    place, column = (int(i) for i in bad[0])
    part = store.parts[column // store.parts[0].d] if isinstance(store, JointStore) else store
    token, where = int(rows[place]), f"{part.meta.member}, {part.meta.site}"
    raise StoreError(
        f"{where}: activations are not finite at step {step}: shard {token // part.meta.shard_tokens}, token {token}",
        "the model is broken, or overflows in its dtype: mend it and harvest again",
    )


def input_scale(rows: Float64[ndarray, "n d"]) -> float:
    """Return the s for which s·x has a mean squared norm of d.

    Raises:
        StoreError: all rows are zero, or one is not finite.
    """
    mean_square = float(np.einsum("td,td->", rows, rows)) / len(rows)
    if not 0 < mean_square < np.inf:
        what = "every activation is 0" if mean_square == 0 else "activations are not finite"
        raise StoreError(what, "the site is of no use: choose another one, or mend the model")
    return float(np.sqrt(rows.shape[1] / mean_square))


def geometric_median(
    rows: Float64[ndarray, "n d"], *, tolerance: float = 1e-6, limit: int = 100
) -> Float64[ndarray, " d"]:
    """Return the point with the least sum of distances to the rows.  Source: Weiszfeld 1937.

    Args:
        rows: points.
        tolerance: stop when the point moves by less than this share of the rows' mean distance to it.
        limit: most iterations.
    """
    point = rows.mean(axis=0)
    for _ in range(limit):
        distance = _distances(rows, point)
        # A row that the point sits on has no direction to pull in; the floor keeps its weight finite.
        weight = 1 / np.maximum(distance, 1e-12 + 1e-9 * distance.mean())
        moved = weight @ rows / weight.sum()
        done = float(np.linalg.norm(moved - point)) <= tolerance * float(distance.mean())
        point = moved
        if done:
            break
    return point


def _distances(rows: Float64[ndarray, "n d"], point: Float64[ndarray, " d"]) -> Float64[ndarray, " n"]:
    """Return every row's distance to a point, some rows at a time."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        found[start : start + _BLOCK] = np.linalg.norm(rows[start : start + _BLOCK] - point, axis=1)
    return found


def random_parameters(d_in: int, d_sae: int, median: Float64[ndarray, " d"], seed: int) -> Parameters:
    """Return decoder rows drawn on the unit sphere, an encoder equal to them, and b_dec at the median."""
    draw, rows = generator(seed, "sae init"), np.empty((d_sae, d_in), np.float32)
    for start in range(0, d_sae, _BLOCK):
        some = draw.standard_normal((min(_BLOCK, d_sae - start), d_in))
        rows[start : start + _BLOCK] = some / np.linalg.norm(some, axis=1, keepdims=True)
    decoder = torch.from_numpy(rows)
    return Parameters(
        decoder.clone(), decoder, torch.zeros(d_sae), torch.from_numpy(median.astype(np.float32))
    )


def first_size(variant: Extended, p: Parameters, x: Float32[Tensor, "tokens d_in"]) -> float:
    """Return the factor of the encoder with which the first x̂ is nearest to x.

    Random latents overlap, and more of them than directions overshoot: at first x̂ would be several times x, and
    training would spend its highest rate on shrinking it.
    """
    centred = x - p.b_dec
    again = variant.first_codes(centred @ p.encoder.T) @ p.decoder
    energy = float(again.double().square().sum())
    size = float((again.double() * centred.double()).sum()) / energy if energy > 0 else 1.0
    return size if size > 0 else 1.0


def warm_parameters(start: SAE, variant: Variant, store: Activations, scale: float) -> Parameters:
    """Return an SAE's weights for inputs multiplied by `scale`, decoder rows of norm 1.

    Raises:
        MismatchError: the SAE is of another kind, width or number of latents, or a latent has no direction.
    """
    refuse_unlike(start, variant, store.d)
    norm = _norms(start)
    return Parameters(
        (start.W_enc.cpu() * norm).T.contiguous(),
        start.W_dec.cpu() / norm[:, None],
        start.b_enc.cpu() * (norm * scale),
        start.b_dec.cpu() * scale,
        variant.begin(start.extra, norm * scale) if isinstance(variant, Extended) else torch.zeros(0, 1),
    )


def refuse_unlike(start: SAE, variant: Variant, d_in: int) -> None:
    """Check that a training of `variant` on activations of width `d_in` can begin with an SAE.

    Raises:
        MismatchError: the SAE is of another kind, width or number of latents.
    """
    have = type(start.variant).__name__, start.d_in, start.d_sae
    want = type(variant).__name__, d_in, variant.d_sae
    if have != want:
        raise MismatchError(
            f"cannot begin with the SAE of {start.metadata.get('member', '?')}: it is {_shape(have)}, "
            f"this one {_shape(want)}",
            "begin with an SAE of the same variant and shape, or from random weights",
        )


def origin(start: SAE) -> dict[str, Any]:
    """Return what records of a warm start keep of the SAE it began with."""
    digest = blake2b(digest_size=8)
    for value in (start.W_enc, start.W_dec, start.b_enc, start.b_dec, *start.extra.values()):
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    facts: dict[str, Any] = {
        name: start.metadata[name] for name in ("member", "seed") if name in start.metadata
    }
    return {**facts, "digest": digest.hexdigest()}


def _norms(start: SAE) -> Float32[Tensor, " d_sae"]:
    """Return the norms of the decoder's rows: 1 here, but another tool's may differ."""
    norm = start.W_dec.cpu().norm(dim=1)
    if not bool((norm > 0).all()):
        raise MismatchError(
            f"cannot begin with this SAE: the decoder row of latent {int((norm > 0).int().argmin())} is 0",
            "begin with another SAE, or from random weights",
        )
    return norm


def _shape(facts: tuple[str, int, int]) -> str:
    return f"{facts[0]} {facts[1]} → {facts[2]}"
