"""One error tree. Every message names the file, the tensor, both shapes; the hint says what to do next.

Exit codes: 1 failed · 2 usage or configuration · 3 inputs that do not fit together · 130 interrupted, resumable.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


class HeredityError(Exception):
    """An error that the user can act on: one line of what, one line of what to do.

    Attributes:
        message: what is wrong, naming the file and the tensor.
        hint: the next step, or an empty string.
        exit_code: what the command line returns.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type["HeredityError"], tuple[str, str]]:
        return type(self), (self.message, self.hint)  # crosses process pools whole


class CheckpointError(HeredityError):
    """A checkpoint is missing, truncated, or its header does not describe its bytes."""


class CorpusError(HeredityError):
    """A corpus is missing, empty, unreadable, or is not the file that was pinned."""


class StoreError(HeredityError):
    """Stored tokens, activations or codes are missing, incomplete or not finite."""


class DiskFullError(HeredityError):
    """There is no room for an output; nothing partial is left in its place."""


class ConfigError(HeredityError):
    """A command, a configuration file or a value in it cannot be used."""

    exit_code = 2


class MismatchError(HeredityError):
    """Inputs that are each fine do not fit together: shapes, names, tokenizers."""

    exit_code = 3


class ExtraMissingError(ConfigError):
    """A command needs an optional dependency that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the extra '{extra}'", f"pip install -c constraints.txt 'heredity[{extra}]'"
        )
        self.what, self.extra = what, extra

    def __reduce__(self) -> tuple[type["ExtraMissingError"], tuple[str, str]]:
        return type(self), (self.what, self.extra)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn 'no space left' while writing `path` into a `DiskFullError` that names it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        else:  # its own class, with the number in its text only
            full = any(f"os error {code})" in str(error) for code in (errno.ENOSPC, errno.EDQUOT))
        if not full:
            raise
        raise DiskFullError(
            f"{path}: the disk is full",
            "free some space, then run the same command again: finished parts are kept",
        ) from error
