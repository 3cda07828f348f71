"""What `heredity start` does: gather candidates, choose one, write it as a checkpoint, and say why."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from heredity.atomic import replacing_folder, write_text
from heredity.corpora.labelled import LabelledTask
from heredity.errors import ConfigError
from heredity.family import Family
from heredity.models.batches import context_of, encode_task
from heredity.models.classifier import copy_tokenizer
from heredity.models.load import quiet_transformers
from heredity.models.tuning import FineTuning
from heredity.regions.candidates import candidates
from heredity.regions.evidence import cost_table, evidence, rung_table, start_findings
from heredity.regions.ground import Ground
from heredity.regions.place import Place
from heredity.regions.start import StartSettings, find_start
from heredity.run import Run

RECORD = "start.json"


def choose_start(
    run: Run,
    family: Family,
    ground: Ground,
    task: LabelledTask,
    config: FineTuning,
    settings: StartSettings,
    *,
    members: Sequence[str],
    dtype: str = "float32",
    tokenizer: Any = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Choose, and write RUN/start and the tables evidence, rungs, cost, findings and warnings; return the findings.

    Args:
        run: the folder.
        family: labels of its members.
        ground: the family's.
        task: the next one.
        config: the full budget.
        settings: of the search.
        members: that may be used, see `candidates.usable`.
        dtype: of the forward pass.
        tokenizer: the family's.
        say: takes a line of progress at a time.

    Raises:
        ConfigError: nothing to choose from.
        StoreError: no fine-tune keeps a finite loss.
    """
    own = [m.name for m in family.members if m.name in members and task.name in map(str, m.labels.values())]
    found = candidates(ground, members, own)
    encoded = encode_task(task, tokenizer, max_tokens=config.max_tokens, context=context_of(ground.model))
    start = find_start(
        ground, found, encoded, config, settings, seed=run.seed, dtype=dtype, tokenizer=tokenizer, say=say
    )
    table = evidence(start, found, seed=run.seed)
    findings = start_findings(start, table, len(found))
    notes = list(encoded.notes)
    if own:
        notes.append(
            f"{len(own)} members were fine-tuned on {task.name} itself; --leave-out {task.name} forbids them"
        )
    run.write_table("evidence", table)
    run.write_table("rungs", rung_table(start))
    run.write_table("cost", cost_table(start))
    run.write_table("findings", pl.DataFrame({"order": range(len(findings)), "text": findings}))
    schema = {"kind": pl.String, "text": pl.String}
    run.write_table("warnings", pl.DataFrame([("data", note) for note in notes], schema=schema, orient="row"))
    write_place(ground, start.chosen.place, run.folder("start"), {"task": task.name, "findings": findings})
    return findings


def within(config: FineTuning, budget: int | None, rows: int) -> FineTuning:
    """Return the settings with as many epochs as a budget of training rows allows.

    Raises:
        ConfigError: it does not allow one.
    """
    if budget is None:
        return config
    if budget < rows:
        raise ConfigError(
            f"--budget {budget} is less than one pass over {rows} training rows",
            f"take fewer rows with --limit {budget}",
        )
    return msgspec.structs.replace(config, epochs=max(1, round(budget / rows)))


def write_place(ground: Ground, place: Place, folder: Path, facts: dict[str, Any]) -> None:
    """Write a place as a checkpoint in float32, with the base's tokenizer and start.json beside it."""
    trouble = ground.pour(place)
    if trouble:
        raise ConfigError(f"{place.name}: {trouble}", "choose another start")
    coefficients = place.point.coefficients
    shares = (
        {name: row.tolist() for name, row in coefficients.items()}
        if isinstance(coefficients, dict)
        else coefficients.tolist()
    )
    record = {
        "schema": 1,
        "place": place.name,
        "members": list(place.point.members),
        "coefficients": shares,
        **facts,
    }
    with replacing_folder(folder) as temporary:
        with quiet_transformers():
            ground.model.save_pretrained(temporary)
        copy_tokenizer(ground.checkpoints[ground.base].path, temporary)
        write_text(temporary / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
