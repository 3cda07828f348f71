"""All sites of a model: which modules see one row per token, how wide the rows are, where the MLPs' insides are.

Widths come from one forward pass of shapes alone, on torch's meta device; a model whose pass depends on values
(a mixture of experts) has the widths that its layers' weights tell.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn

from heredity.anatomy import kind_of as kind_of_tensor
from heredity.errors import ConfigError
from heredity.features.site import Site
from heredity.models.architecture import kind_of

_SHAPE = (2, 7)  # sequences and tokens of the pass: their product is no usual width
_LAYER = re.compile(r"^(.*?(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+))\.")
_DOWN = re.compile(r"(?:^|\.)(?:down_proj|c_proj|fc2|lin2|dense_4h_to_h|wo|w2|output\.dense)$")


class Place(Struct, frozen=True, kw_only=True):
    """A module with what passes it, one row per token.

    Attributes:
        module: path in `model.named_modules()`.
        kind: its class.
        layer: number of the layer, None outside the layers.
        input: width of a row that comes in, None where none does.
        output: width of a row that goes out.
        mlp: its input is the hidden activations of its layer's MLP.
    """

    module: str
    kind: str
    layer: int | None
    input: int | None
    output: int | None
    mlp: bool = False

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of the module, as `--site` takes them."""
        sides = (("input", self.input), ("output", self.output))
        return tuple(f"{self.module}:{side}" for side, width in sides if width is not None)


def places(model: nn.Module) -> list[Place]:
    """List the modules that can be read, in the model's order.

    Args:
        model: any transformers model; on the meta device no weight is needed.
    """
    widths = _passed(model) or {name: _stated(module) for name, module in model.named_modules()}
    found = []
    for name, module in model.named_modules():
        into, out = widths.get(name, (None, None))
        if name and (into, out) != (None, None):
            layer = _LAYER.match(f"{name}.")
            found.append(
                Place(
                    module=name, kind=type(module).__name__, layer=int(layer[2]) if layer else None, input=into,
                    output=out,
                )
            )  # fmt: skip
    inside = set(_insides(found))
    return [Place(**{**_fields(p), "mlp": True}) if p.module in inside else p for p in found]


def recommended(found: Sequence[Place]) -> str:
    """Return the site that a family is tracked at unless told otherwise: the middle layer's MLP, inside.

    Raises:
        ConfigError: no MLP was recognised.
    """
    mlps = [place for place in found if place.mlp]
    if not mlps:
        raise ConfigError(
            "no module is known to end an MLP",
            "`heredity sites MODEL` lists the modules: name one with --site",
        )
    return str(Site(mlps[(len(mlps) - 1) // 2].module, "input"))


def _passed(model: nn.Module) -> dict[str, tuple[int | None, int | None]] | None:
    """Return the widths of what passes every module in one pass, or None if it cannot be made."""
    device = next(model.parameters()).device
    ids = torch.zeros(_SHAPE, dtype=torch.int64, device=device)
    inputs = {"input_ids": ids} | (
        {"decoder_input_ids": ids} if kind_of(model.config) == "encoder-decoder" else {}
    )
    into: dict[str, int | None] = {}
    out: dict[str, int | None] = {}
    handles = []
    for name, module in model.named_modules():

        def before(_: Any, args: Any, kwargs: Any, name: str = name) -> None:
            given = args[0] if args and isinstance(args[0], Tensor) else next(
                (value for value in kwargs.values() if isinstance(value, Tensor)), None
            )  # fmt: skip
            into[name] = _width(given)

        def after(_: Any, __: Any, value: Any, name: str = name) -> None:
            out[name] = _width(value[0] if isinstance(value, tuple) and value else value)

        handles += [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after),
        ]
    try:
        with torch.no_grad():
            model(**inputs)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError):
        return None  # the pass asks for values, which the meta device has not
    finally:
        for handle in handles:
            handle.remove()
    return {name: (into.get(name), out.get(name)) for name in {**into, **out}}


def _width(value: Any) -> int | None:
    """Return the width of a tensor of one row per token, else None."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2:
        return None
    rows = value.numel() // max(1, value.shape[-1])
    return int(value.shape[-1]) if rows == _SHAPE[0] * _SHAPE[1] else None


def _stated(module: nn.Module) -> tuple[int | None, int | None]:
    """Return what the weights of a layer say of its widths."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.Embedding):
        return None, module.embedding_dim
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() == 1:
        return len(weight), len(weight)
    if isinstance(weight, Tensor) and type(module).__name__ == "Conv1D":
        return weight.shape[0], weight.shape[1]
    return None, None


def _insides(found: Sequence[Place]) -> list[str]:
    """Return the module that ends the MLP of each layer: the last linear one that narrows, by name or by width."""
    layers: dict[str, list[Place]] = {}
    for place in found:
        layer = _LAYER.match(f"{place.module}.")
        linear = place.kind in ("Linear", "Conv1D") and kind_of_tensor(f"{place.module}.weight") == "mlp"
        if layer and linear and place.input is not None:
            layers.setdefault(layer[1], []).append(place)
    ends = []
    for own in layers.values():
        named = [p for p in own if _DOWN.search(p.module)]
        narrowing = [p for p in own if (p.input or 0) > (p.output or 0)]
        ends += [p.module for p in (named or narrowing)[-1:]]
    return ends


def _fields(place: Place) -> dict[str, Any]:
    return {name: getattr(place, name) for name in place.__struct_fields__}
