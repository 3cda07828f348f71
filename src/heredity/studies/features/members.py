"""The members of a run's family as live models: of RUN/family/family.toml, wherever their folders are."""

from torch import nn

from heredity.family import Family
from heredity.models.load import load
from heredity.run import Run


def family_of(run: Run) -> Family:
    """Read the run's family file."""
    return Family.load(run.folder("family") / "family.toml")


def load_member(run: Run, name: str, *, device: str) -> nn.Module:
    """Load a member in evaluation mode."""
    family = family_of(run)
    return load(family.root / family.member(name).path, device=device)
