"""Pour a point into a live model: the weighted sum of its members' weights, without a file in between.

The sum is the merge's own kernel (float32, members in order), so a poured point and a written one agree.
"""

from collections.abc import Container, Mapping

import numpy as np
import torch
from torch import nn

from heredity.checkpoint import Checkpoint
from heredity.errors import MismatchError
from heredity.point import Point, weighted


def pour(
    point: Point,
    checkpoints: Mapping[str, Checkpoint],
    model: nn.Module,
    *,
    only: Container[str] | None = None,
) -> None:
    """Set a model's parameters to a point of its family, in place.

    Args:
        point: coefficients over the raw weights of members.
        checkpoints: the members by name; each must hold every tensor of the point.
        model: a live model of the same architecture, on any device and in any floating dtype.
        only: names of the parameters to set, as the members have them; None sets all.

    Raises:
        MismatchError: a parameter has no tensor in the members, or another shape.
    """
    first = checkpoints[point.members[0]]
    storages: dict[int, str] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name not in first.tensors:
                if parameter.data_ptr() in storages:
                    continue  # a tied copy: its storage is filled under the other name
                later = [
                    n
                    for n, p in model.named_parameters(remove_duplicate=False)
                    if p.data_ptr() == parameter.data_ptr()
                ]
                if any(n in first.tensors for n in later):
                    continue
                raise MismatchError(
                    f"{first.path}: no tensor {name}, which the live model has",
                    "pour members of the model's own architecture",
                )
            info = first.tensors[name]
            if info.shape != tuple(parameter.shape):
                raise MismatchError(
                    f"{first.path}: {name} is {list(info.shape)}, the live model has {list(parameter.shape)}",
                    "pour members of the model's own architecture",
                )
            storages[parameter.data_ptr()] = name
            if only is not None and name not in only:
                continue
            _fill(parameter, point, checkpoints, name, info.size)


def _fill(
    parameter: torch.Tensor, point: Point, checkpoints: Mapping[str, Checkpoint], name: str, size: int
) -> None:
    direct = parameter.device.type == "cpu" and parameter.dtype == torch.float32 and parameter.is_contiguous()
    if direct:
        weighted(point, checkpoints, name, 0, size, parameter.detach().view(-1).numpy())
        return
    buffer = np.empty(size, dtype=np.float32)
    weighted(point, checkpoints, name, 0, size, buffer)
    parameter.copy_(torch.from_numpy(buffer).view(parameter.shape))
