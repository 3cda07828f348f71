"""Inner products of what comes into linear layers: Σ x xᵀ, once for layers that read the same tensor."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from heredity.errors import ConfigError
from heredity.models.evaluate import default_batch

_ROWS = 4096  # of a float32 product
_SUM_BYTES = 8


class InputPart:
    """Sums for some layers; see `collect.Part`."""

    kind: Literal["input_gram"] = "input_gram"

    def __init__(self, model: nn.Module, layers: "list[_Layer]", stop_early: bool, step: int) -> None:
        self.shapes = {layer.tensor: (layer.width, layer.width) for layer in layers}
        self.sums: dict[str, Tensor] = {}
        self.count, self.step = 0, step
        self._model, self._layers, self._last = model, layers, layers[-1] if stop_early else None

    def add(self, blocks: Int[Tensor, "sequences context"], first: int) -> None:
        """Add the inputs that some sequences make; the layers above the last one are not computed."""

        def take(layer: _Layer, x: Tensor) -> None:
            for rows in x.detach().reshape(-1, layer.width).split(_ROWS):
                rows = rows.float()
                self.sums[layer.tensor].add_(rows.T @ rows)
            if layer is self._last:
                raise _EnoughError

        with torch.no_grad(), _listening({layer.module: layer for layer in self._layers}, take):
            self._model(input_ids=blocks)
        self.count += blocks.numel()


def input_parts(
    model: nn.Module,
    names: Mapping[str, str],
    block: Int[Tensor, "1 context"],
    max_bytes: int,
    batch_tokens: int | None,
) -> tuple[list[InputPart], dict[str, str]]:
    """Find the linear layers of a model and divide them, in the order of computation, into parts.

    Args:
        model: live, in evaluation mode.
        names: parameter → tensor of the checkpoint; layers of others are left out.
        block: a sequence, which shows the order and which layers share an input.
        max_bytes: most memory for the sums of a part.
        batch_tokens: tokens of a forward pass.

    Returns:
        The parts, and what the statistics file says of them: `shared` and `conv1d`.

    Raises:
        ConfigError: the sum of one layer is larger than `max_bytes`, or there is no linear layer.
    """
    device = next(model.parameters()).device
    layers = _linear_layers(model, names)
    calls = _calls(model, layers, block.to(device))
    leaders: dict[Any, _Layer] = {}
    shared: dict[str, str] = {}
    for module, seen in calls.items():
        leader = leaders.setdefault(seen, layers[module])
        if leader is not layers[module]:
            shared[layers[module].tensor] = leader.tensor
    idle = [layer for module, layer in layers.items() if module not in calls]  # experts not chosen yet
    once = not idle and all(len(seen) == 1 for seen in calls.values())
    parts: list[list[_Layer]] = []
    used = max_bytes + 1
    for layer in [*leaders.values(), *idle]:
        nbytes = _SUM_BYTES * layer.width**2
        if nbytes > max_bytes:
            raise ConfigError(
                f"the input of {layer.tensor} is {layer.width} wide: its inner products take "
                f"{nbytes / 1e9:.2f} GB, {max_bytes / 1e9:.2f} GB are allowed",
                "allow more with --max-memory",
            )
        if used + nbytes > max_bytes:
            parts, used = [*parts, []], 0
        parts[-1].append(layer)
        used += nbytes
    if not parts:
        raise ConfigError(f"{type(model).__name__} has no linear layer", "collect the Fisher information")
    step = max(1, (batch_tokens or default_batch(device)) // block.shape[1])
    conv1d = [layer.tensor for module, layer in layers.items() if isinstance(module, Conv1D)]
    about = {"shared": json.dumps(shared, sort_keys=True), "conv1d": json.dumps(sorted(conv1d))}
    return [InputPart(model, part, once, step) for part in parts], about


class _Layer(NamedTuple):
    module: nn.Module
    tensor: str
    width: int


class _EnoughError(Exception):
    """Ends a forward pass once the last layer that is asked for has its input."""


def _linear_layers(model: nn.Module, names: Mapping[str, str]) -> dict[nn.Module, _Layer]:
    tables = {m.weight.data_ptr() for m in model.modules() if isinstance(m, nn.Embedding)}
    found: dict[nn.Module, _Layer] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and f"{name}.weight" in names:
            weight = module.weight
            if weight.data_ptr() in tables:
                continue  # a tied head: what it reads says nothing about the embedding that it also is
            width = weight.shape[0] if isinstance(module, Conv1D) else weight.shape[1]
            found[module] = _Layer(module, names[f"{name}.weight"], width)
    return found


def _calls(
    model: nn.Module, layers: Mapping[nn.Module, _Layer], block: Int[Tensor, "1 context"]
) -> dict[nn.Module, tuple[Any, ...]]:
    """Return what each layer read in one pass, in the order of the first call; equal where it is one tensor."""
    seen: dict[nn.Module, list[Any]] = {}
    alive: list[Tensor] = []  # an address is used again once its tensor is gone

    def note(layer: _Layer, x: Tensor) -> None:
        alive.append(x)
        place = (x.data_ptr(), x.storage_offset(), tuple(x.shape), x.stride(), x._version)
        seen.setdefault(layer.module, []).append(place)

    with torch.no_grad(), _listening(layers, note):
        model(input_ids=block)
    return {module: tuple(places) for module, places in seen.items()}


@contextmanager
def _listening(
    layers: Mapping[nn.Module, _Layer], take: Callable[[_Layer, Float[Tensor, "..."]], None]
) -> Iterator[None]:
    """Hand the input of every layer to a function during forward passes in the block."""

    def before(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        take(layers[module], given[0] if given else next(iter(named.values())))

    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in layers]
    try:
        with suppress(_EnoughError):
            yield
    finally:
        for handle in handles:
            handle.remove()
