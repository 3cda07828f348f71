"""A variant by its name and plain settings: what `--variant`, `sae.variant` and their settings stand for."""

import importlib
from collections.abc import Mapping
from typing import Any

import msgspec

from heredity.errors import ConfigError
from heredity.family import plain
from heredity.features.sae import variants
from heredity.features.sae._variant import Variant


def kind_named(name: str) -> type[Variant]:
    """Return the variant of a name, such as topk.

    Raises:
        ConfigError: there is none.
    """
    if name not in variants():
        raise ConfigError(f"no SAE variant {name!r}", f"variants: {', '.join(variants())}")
    module = importlib.import_module(f"heredity.features.sae.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Variant) and value.__module__ == module.__name__
    )


def make(name: str, settings: Mapping[str, Any]) -> Variant:
    """Make a variant of plain settings, `d_sae` among them.

    Raises:
        ConfigError: no such variant, or a setting that it has not, needs, or cannot take; a k above d_sae.
    """
    kind = kind_named(name)
    unknown = [key for key in settings if key not in kind.__struct_fields__]
    if unknown:
        own = ", ".join(field for field in kind.__struct_fields__ if field != "d_sae")
        raise ConfigError(f"{name}: unknown field {unknown[0]!r}", f"settings of {name}: {own}")
    try:
        made: Variant = msgspec.convert({"type": kind.__name__, **settings}, kind)
    except msgspec.ValidationError as error:
        hint = "`heredity train --variants` lists the settings of each"
        raise ConfigError(f"{name}: {plain(error)}", hint) from None
    k = getattr(made, "k", 0)
    if k > made.d_sae:
        raise ConfigError(f"{name}: k = {k:,} of {made.d_sae:,} latents - at $.k", "lower k, or raise d_sae")
    return made
