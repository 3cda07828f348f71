"""What the study works on, whichever kind its family is: members on the ground, sets to measure on, fine-tunes."""

from collections.abc import Callable

import msgspec

from heredity.execute import Execution, Processes, Serial
from heredity.family import Family
from heredity.models.batches import EncodedTask
from heredity.regions.ground import Ground
from heredity.regions.metrics import Metric


class Regime(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One way to fine-tune a held-out set.

    Attributes:
        name: shown in tables.
        sets: that are fine-tuned so.
        tuned: (set, seed) → a metric whose last score is of the held-out rows.
    """

    name: str
    sets: tuple[str, ...]
    tuned: Callable[[str, int], Metric]


class Material(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A trained family and its measurements.

    Attributes:
        family: base and members, labelled by data, family and seed.
        everyone: the same with the controls.
        ground: the family's.
        metrics: one for each set, or one for all.
        regimes: ways to fine-tune from a start.
        notes: what was done to the data.
        tasks: labelled set → its rows for the search of a start; None for language models.
        dtype: of forward passes.
    """

    family: Family
    everyone: Family
    ground: Ground
    metrics: list[Metric]
    regimes: list[Regime]
    notes: tuple[str, ...]
    tasks: Callable[[str], EncodedTask] | None = None
    dtype: str = "float32"

    @property
    def data(self) -> dict[str, str]:
        """Set of each member."""
        return {m.name: str(m.labels["data"]) for m in self.family.members if "data" in m.labels}


def several(jobs: int) -> Execution:
    """Return what maps fine-tunes over processes, or in this one."""
    return Serial() if jobs == 1 else Processes(jobs)
