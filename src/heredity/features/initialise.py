"""Where an SAE starts: input scale, geometric median, random unit decoder rows with a tied encoder."""

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from heredity.errors import StoreError
from heredity.features.backward import Parameters
from heredity.features.store import ActivationStore
from heredity.seeds import generator

_SAMPLE = 16_384


def sample(store: ActivationStore, seed: int) -> Float64[ndarray, "n d"]:
    """Return rows of a store drawn without replacement, at most 16,384."""
    draw = generator(seed, "sae sample").permutation(store.n_tokens)[:_SAMPLE]
    return store.take(np.sort(draw)).astype(np.float64)


def input_scale(rows: Float64[ndarray, "n d"]) -> float:
    """Return the s for which s·x has a mean squared norm of d.

    Raises:
        StoreError: all rows are zero, or one is not finite.
    """
    mean_square = float(np.square(rows).sum(axis=1).mean())
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
        distance = np.sqrt(np.square(rows - point).sum(axis=1))
        # A row that the point sits on has no direction to pull in; the floor keeps its weight finite.
        weight = 1 / np.maximum(distance, 1e-12 + 1e-9 * distance.mean())
        moved = weight @ rows / weight.sum()
        done = float(np.linalg.norm(moved - point)) <= tolerance * float(distance.mean())
        point = moved
        if done:
            break
    return point


def random_parameters(d_in: int, d_sae: int, median: Float64[ndarray, " d"], seed: int) -> Parameters:
    """Return decoder rows drawn on the unit sphere, an encoder equal to them, and b_dec at the median."""
    draw = generator(seed, "sae init").standard_normal((d_sae, d_in))
    rows = torch.from_numpy((draw / np.linalg.norm(draw, axis=1, keepdims=True)).astype(np.float32))
    return Parameters(rows.clone(), rows, torch.zeros(d_sae), torch.from_numpy(median.astype(np.float32)))
