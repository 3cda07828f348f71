"""What a search leaves behind: its points as they come, tables, and the recipe of the best one."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from heredity.atomic import write_text
from heredity.errors import ConfigError
from heredity.merging.engine import Merge
from heredity.merging.recipe import placed
from heredity.regions.search import Step, Weights
from heredity.run import Run
from heredity.tomlfile import to_toml


class Kept:
    """The points of a search in a file, by which an interrupted one goes on.

    Attributes:
        points: weights → loss, as evaluated so far.
    """

    def __init__(self, file: Path | None, job: str) -> None:
        """Read the file, if there is one.

        Args:
            file: JSON; None keeps nothing.
            job: what is searched on what, so that no other search goes on with it.

        Raises:
            ConfigError: the file is no trace, or that of another search.
        """
        self._file, self._job = file, job
        self.points: dict[Weights, float] = {}
        if file is None or not file.exists():
            return
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            self.points = {tuple(step["weights"]): float(step["loss"]) for step in kept["steps"]}
            same = kept["job"] == job
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file}: is no trace of a search ({error!r})", "name another file") from None
        if not same:
            raise ConfigError(
                f"{file}: is the trace of another recipe, other models or other text", "name another file"
            )

    def add(self, weights: Weights, loss: float) -> None:
        """Keep a point."""
        self.points[weights] = loss
        if self._file is not None:
            steps = [{"weights": list(w), "loss": v} for w, v in self.points.items()]
            text = json.dumps({"schema": 1, "job": self._job, "steps": steps}, indent=1)
            write_text(self._file, text + "\n")


def write_tables(run: Run, steps: Sequence[Step], models: Sequence[str], what: str) -> None:
    """Write the tables `search` (every point in order) and `findings` of a run.

    Args:
        run: of the command search.
        steps: of the trace.
        models: that the weights are of, in order.
        what: "t" or "weight".
    """
    weights = [step.weights for step in steps]
    columns: dict[str, Any] = {
        "order": range(1, len(steps) + 1), "why": [_named(step.why, models) for step in steps],
        "loss": [step.loss for step in steps], "best": [step.best for step in steps],
    }  # fmt: skip
    if what == "t":
        columns["t"] = [point[0] for point in weights]
    else:
        columns |= {f"weight {model}": [p[i] for p in weights] for i, model in enumerate(models)}
    run.write_table("search", pl.DataFrame(columns))
    best = min(steps, key=lambda step: step.loss)
    if what == "t":
        where = f"t = {best.weights[0]:.4g} between {models[0]} and {models[-1]}"
    else:
        shares = zip(models, best.weights, strict=True)
        where = " + ".join(f"{share:.3g} {model}" for model, share in shares if share)
    text = f"The lowest of {len(steps)} losses is {best.loss:.5f} nats per token, at {where}."
    run.write_table("findings", pl.DataFrame({"order": [0], "text": [text]}))


def write_best(out: Path, merge: Merge, best: Merge) -> None:
    """Write the recipe of the best point, which `heredity merge` carries out from any folder."""
    write_text(out, to_toml({"merge": placed(best.recipe["merge"], merge.target.models)}))


def _named(why: str, models: Sequence[str]) -> str:
    """Put the members' names in the place of their numbers; clusters keep theirs.

    >>> _named("cluster 0: with 1", ["a", "b"])
    'cluster 0: with b'
    """
    return re.sub(r"(?<!cluster )\b\d+\b", lambda found: models[int(found[0])], why)
