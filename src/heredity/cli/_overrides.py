"""`--set key=value`: values are TOML, and what is not TOML is a string."""

import tomllib
from collections.abc import Sequence
from typing import Any

from heredity.errors import ConfigError


def overrides(settings: Sequence[str]) -> dict[str, Any]:
    """Return {key: value} of settings such as "t=0.58" or "weight=[0.3, 0.7]".

    Raises:
        ConfigError: one has no "=".
    """
    found: dict[str, Any] = {}
    for setting in settings:
        key, mark, text = setting.partition("=")
        if not mark or not key.strip():
            raise ConfigError(f"--set {setting}: is not KEY=VALUE", "--set t=0.58")
        try:
            found[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = text.strip()
    return found
