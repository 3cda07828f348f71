"""Loss of a merge without a file: its point is poured into a live model, which reads a token stream."""

from collections.abc import Callable

import msgspec
import numpy as np
from torch import nn

from heredity.corpora.tokens import TokenStream
from heredity.errors import ConfigError
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
    change = _changer(merge)

    def evaluate(weights: Weights) -> float:
        change(weights).load(model)
        return float(lm_scores(model, stream).summary()[0])

    return evaluate


def _changer(merge: Merge) -> Callable[[Weights], Merge]:
    method = next(iter(merge.plan.groups[0].methods.values()))
    fields = type(method).__struct_fields__
    if "t" in fields:
        return lambda weights: merge.using(msgspec.structs.replace(method, t=weights[0]))
    if "weight" in fields:
        return lambda weights: merge.using(
            msgspec.structs.replace(method, weight=tuple(np.asarray(weights).tolist()))
        )
    raise ConfigError(
        f"{type(method).__name__} has neither t nor weight to search", "use slerp, linear, task_arithmetic …"
    )
