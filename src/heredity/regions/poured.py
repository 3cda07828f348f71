"""Loss of a merge without a file: its point is poured into a live model, which reads a token stream."""

from typing import Literal

import msgspec
import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from torch import nn

from heredity.corpora.tokens import TokenStream
from heredity.errors import ConfigError
from heredity.geometry.similarity import centre, cosine
from heredity.gram import grams_of
from heredity.merging.engine import Merge
from heredity.models.evaluate import lm_scores
from heredity.regions.search import Evaluate, Weights


def loss_of_merges(merge: Merge, model: nn.Module, stream: TokenStream) -> Evaluate:
    """Return the mean loss (nats per token) of a merge as a function of t, or of the models' weights.

    Args:
        merge: prepared by a method in the span of its inputs that has a `t` or a `weight`, the same for all
            tensors; Gram matrices are measured once.
        model: a live model of the architecture; overwritten.
        stream: validation text.

    Raises:
        ConfigError: the method has neither t nor weight.
    """
    searched(merge)

    def evaluate(weights: Weights) -> float:
        at(merge, weights).load(model)
        return float(lm_scores(model, stream).summary()[0])

    return evaluate


def searched(merge: Merge) -> Literal["t", "weight"]:
    """Return which field of a merge's method a search changes.

    Raises:
        ConfigError: the method has neither t nor weight.
    """
    method = next(iter(merge.plan.groups[0].methods.values()))
    fields = type(method).__struct_fields__
    if "t" in fields:
        return "t"
    if "weight" in fields:
        return "weight"
    raise ConfigError(
        f"{type(method).__name__} has neither t nor weight to search", "use slerp, linear, task_arithmetic …"
    )


def kinship(merge: Merge) -> Float64[ndarray, "models models"]:
    """Return the cosines between the models' differences from the base, or from their mean if there is none."""
    total = grams_of({name: merge.gram(name) for name in merge.plan.weights}, "reference").total()["all"]
    return cosine(total.deltas if merge.plan.groups[0].base else centre(total.raw()))


def at(merge: Merge, weights: Weights) -> Merge:
    """Return the same merge at another t, or with other weights of its models."""
    method = next(iter(merge.plan.groups[0].methods.values()))
    if searched(merge) == "t":
        return merge.using(msgspec.structs.replace(method, t=weights[0]))
    return merge.using(msgspec.structs.replace(method, weight=tuple(np.asarray(weights).tolist())))
