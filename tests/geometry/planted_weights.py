"""Families of weights made by formula: arrays whose kinship is known, and their Gram matrices in fp64."""

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from heredity.gram import Gram, TensorGram, grams_of

SIZES = (4000, 16000, 30000, 500)
Weights = list[ndarray]


def normal(rng: np.random.Generator, scale: float, sizes: Sequence[int] = SIZES) -> Weights:
    """Independent weights of one scale, tensor by tensor."""
    return [rng.normal(0.0, scale, size) for size in sizes]


def plus(*weights: Weights) -> Weights:
    """Add weights up."""
    return [np.sum(tensors, axis=0) for tensors in zip(*weights, strict=True)]


def times(factor: float, weights: Weights) -> Weights:
    """Scale weights."""
    return [factor * tensor for tensor in weights]


def bf16(weights: Weights) -> Weights:
    """Round to bfloat16 by its bits, ties to even: an oracle that shares nothing with the library."""
    return [_bf16(tensor) for tensor in weights]


def products(base: Weights, members: Sequence[Weights]) -> tuple[ndarray, ndarray, ndarray]:
    """Return products [t, K+1, K+1] and sums [t, K+1] of [w_ref, Δ_1 …], and the sizes [t]."""
    grams, sums = [], []
    for index, tensor in enumerate(base):
        rows = np.stack([tensor, *(member[index] - tensor for member in members)]).astype(np.float64)
        grams.append(rows @ rows.T)
        sums.append(rows.sum(axis=1))
    return np.array(grams), np.array(sums), np.array([len(tensor) for tensor in base])


def gram(base: Weights, members: dict[str, Weights]) -> Gram:
    """Return the library's Gram of the same, with tensors of two layers, an embedding and a norm."""
    names = (
        "model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    )
    names = (*names, "model.norm.weight")
    matrices, sums, sizes = products(base, list(members.values()))
    tensors = {
        name: TensorGram(
            name=name, shape=(int(size),), size=int(size), members=tuple(members), products=matrix, sums=total
        )
        for name, matrix, total, size in zip(names, matrices, sums, sizes, strict=True)
    }
    return grams_of(tensors, "base")


def planted(
    groups: Sequence[int], within: float, between: float, noise: float, rng: np.random.Generator
) -> ndarray:
    """Return a similarity matrix of groups of given sizes."""
    labels = np.repeat(np.arange(len(groups)), groups)
    values = np.where(labels[:, None] == labels[None, :], within, between) + rng.normal(
        0, noise, (len(labels),) * 2
    )
    values = (values + values.T) / 2
    np.fill_diagonal(values, 1.0)
    return values


def _bf16(values: ndarray) -> ndarray:
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)
