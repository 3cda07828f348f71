"""A site: the input or the output of one module, read or replaced by plain forward hooks.

>>> Site.parse("model.layers.0.mlp.down_proj:input")
Site(module='model.layers.0.mlp.down_proj', side='input')
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from msgspec import Struct
from torch import Tensor, nn

from heredity.errors import ConfigError, MismatchError

Edit = Callable[[Tensor], Tensor]


class Site(Struct, frozen=True):
    """One side of one module, by its path in `model.named_modules()`."""

    module: str
    side: Literal["input", "output"]

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read `MODULE:input` or `MODULE:output`.

        Raises:
            ConfigError: the text is neither.
        """
        module, _, side = text.rpartition(":")
        if not module or side not in ("input", "output"):
            raise ConfigError(
                f"site {text!r}: must be MODULE:input or MODULE:output",
                "for example model.layers.0.mlp.down_proj:input",
            )
        return cls(module, "input" if side == "input" else "output")

    def __str__(self) -> str:
        return f"{self.module}:{self.side}"

    def find(self, model: nn.Module) -> nn.Module:
        """Return the module; a model with a head and the same model without one have the same sites.

        Raises:
            ConfigError: the model has none of that name; the hint offers the nearest ones.
        """
        modules = {name: module for name, module in model.named_modules() if name}
        inner = f"{getattr(model, 'base_model_prefix', '')}."
        for name in (self.module, inner + self.module, self.module.removeprefix(inner)):
            if name in modules:
                return modules[name]
        near = difflib.get_close_matches(self.module, sorted(modules), n=3, cutoff=0.3)
        raise ConfigError(
            f"site {self}: {type(model).__name__} has no module {self.module!r}",
            f"did you mean {', '.join(near)}?" if near else "`heredity sites MODEL` lists what it has",
        )


class EnoughError(Exception):
    """Ends a forward pass once every site has been seen: the layers above are not needed."""


@contextmanager
def reading(
    model: nn.Module, sites: Sequence[Site], *, stop_early: bool = False
) -> Iterator[dict[Site, Tensor]]:
    """Fill a dictionary with the activations at the sites during each forward pass in the block.

    Args:
        model: any module.
        sites: where to read.
        stop_early: raise `EnoughError` out of the forward pass when the last site has been seen; the caller
            catches it and clears the dictionary.
    """
    seen: dict[Site, Tensor] = {}

    def reader(site: Site) -> Edit:
        def read(value: Tensor) -> Tensor:
            seen[site] = value.detach()
            if stop_early and len(seen) == len(sites):
                raise EnoughError
            return value

        return read

    with editing(model, {site: reader(site) for site in sites}):
        yield seen


@contextmanager
def editing(model: nn.Module, edits: Mapping[Site, Edit]) -> Iterator[None]:
    """Pass the activations at each site through a function during every forward pass in the block."""
    with ExitStack() as stack:
        for site, edit in edits.items():
            module = site.find(model)
            if site.side == "input":
                handle = module.register_forward_pre_hook(_before(site, edit), with_kwargs=True)
            else:
                handle = module.register_forward_hook(_after(site, edit))
            stack.callback(handle.remove)
        yield


def _before(site: Site, edit: Edit) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    def hook(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args and isinstance(args[0], Tensor):
            return (edit(args[0]), *args[1:]), kwargs
        for name, value in kwargs.items():  # called by keyword: the first tensor is the activations
            if isinstance(value, Tensor):
                return args, {**kwargs, name: edit(value)}
        raise MismatchError(f"site {site}: the module takes no tensor", "choose another module or its output")

    return hook


def _after(site: Site, edit: Edit) -> Callable[..., Any]:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return edit(output)
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            return (edit(output[0]), *output[1:])
        raise MismatchError(f"site {site}: the module returns no tensor", "choose a module inside it")

    return hook
