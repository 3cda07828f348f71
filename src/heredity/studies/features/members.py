"""The members of a run's family as live models: of RUN/family/family.toml, wherever their folders are."""

from pathlib import Path
from typing import Any

from torch import nn

from heredity.corpora.tokens import TokenStream
from heredity.family import Family
from heredity.features.feed import Ends, ends_of
from heredity.features.harvest import harvest
from heredity.features.store import ActivationStore
from heredity.models.architecture import kind_of, open_model
from heredity.models.load import threads, tokenizer
from heredity.models.pour import pour
from heredity.point import Point
from heredity.run import Run
from heredity.studies.features.config import Tracked
from heredity.studies.features.text import Streams


def family_of(run: Run) -> Family:
    """Read the run's family file."""
    return Family.load(run.folder("family") / "family.toml")


def load_member(run: Run, name: str, *, device: str) -> nn.Module:
    """Load a member in evaluation mode; an adapter is poured into its parent."""
    family = family_of(run)
    member = family.member(name)
    if member.relation != "adapter":
        return open_model(family.root / member.path, device=device)
    live = load_member(run, member.parents[0], device=device)
    checkpoint = family.checkpoint(name)
    pour(Point((name,), [1.0]), {name: checkpoint}, live)
    return live


def ends_in(model: nn.Module, streams: Streams) -> Ends | None:
    """Return [CLS] and [SEP] of an encoder; None for other models."""
    config: Any = model.config
    return ends_of(model, tokenizer(streams.tokenizer)) if kind_of(config) == "encoder" else None


def harvest_member(
    run: Run, config: Tracked, streams: Streams, name: str, text: TokenStream, out: Path, *, device: str
) -> ActivationStore:
    """Harvest a member's activations over a text at the site of the SAEs; what is there already is kept."""
    model = load_member(run, name, device=device)
    with threads(config.threads):
        return harvest(
            model,
            text,
            config.sae.site,
            out,
            member=name,
            dtype=config.sae.keep,
            ends=ends_in(model, streams),
        )
