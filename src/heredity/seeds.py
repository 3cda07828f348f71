"""Random draws keyed by (seed, purpose, name): serial, parallel and resumed runs draw the same numbers."""

from hashlib import blake2b

import numpy as np


def key(seed: int, *names: object) -> int:
    """Return a 64-bit key of a seed and any names.

    >>> key(0, "split", "plays") == key(0, "split", "plays")
    True
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, *names: object) -> np.random.Generator:
    """Return a counter-based generator (Philox) for one purpose, independent of every other purpose."""
    return np.random.Generator(np.random.Philox(key=key(seed, *names)))
