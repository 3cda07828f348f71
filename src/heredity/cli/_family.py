"""Models named on the command line, as a family: members of a file, or folders and Hub ids of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def of_two_or_more(refs: Sequence[str], file: Path | None) -> tuple[Any, list[str]]:
    """Return the family and the names of the models that were asked for.

    Raises:
        ConfigError: one model twice, or a name that the family does not have.
    """
    from heredity.checkpoint import Checkpoint
    from heredity.errors import ConfigError
    from heredity.family import Family

    if len(set(refs)) < len(refs):
        raise ConfigError(f"{', '.join(refs)}: one model is given twice", "give different models")
    if file is not None:
        family = Family.load(file)
        for ref in refs:
            family.member(ref)
        return family, list(refs)
    names: list[str] = []
    for ref in refs:
        name = Checkpoint.open(ref).name
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return Family.of(dict(zip(names, refs, strict=True)), name="-".join(names)), names
