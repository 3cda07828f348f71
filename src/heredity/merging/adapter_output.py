"""Write a merge of adapters as an adapter: a PEFT folder, whole or not at all.

Neither the base nor a difference from it is ever formed, so the cost is that of the adapters.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from heredity.adapter import WEIGHTS
from heredity.atomic import sync_folder, write_text
from heredity.card import write_card
from heredity.checkpoint import ADAPTER_CONFIG
from heredity.errors import ConfigError, naming_full_disk
from heredity.merging._open import location
from heredity.merging.adapter_changes import Sketch, changes, relative, sketch
from heredity.merging.adapter_files import AdapterFiles
from heredity.merging.engine import Facts, Merge, Target
from heredity.merging.output import LOCK, RECIPE, check_room, input_states, job_of, lock_of, refuse_changed
from heredity.tomlfile import to_toml
from heredity.writer import Shard, clear, write_shard

_STAGING = ".heredity-adapter.tmp"

Progress = Callable[[str, int], None]


def save_adapter(
    merge: Merge, out: Path, target: Target, *, resume: bool, overwrite: bool, hash_inputs: bool,
    progress: Progress,
) -> Path:  # fmt: skip
    """Write the folder, whole or not at all; see `Merge.save`.

    Raises:
        CheckpointError: an input changed while it was merged.
        ConfigError: the folder is not empty, or the merge is no adapter of the inputs' base.
        MismatchError: an input is no adapter, or one of another base.
        DiskFullError: there is not enough room.
    """
    drawn = sketch(merge, target.dtype, target.rank)
    before = input_states(merge)
    job = job_of(merge, before, adapter=[target.rank, target.dtype])
    if _is_done(out, job, resume=resume, overwrite=overwrite):
        return out
    check_room(out, drawn.write_bytes, resume=False)
    found = changes(merge, drawn)
    if out.exists():
        clear(out)
    with _staging(out) as folder:
        files = AdapterFiles(merge, drawn, found, target.dtype, target.rank)
        written = write_shard(folder, Shard(WEIGHTS, tuple(files.planned)), partial(files.produce, progress))
        refuse_changed(before)
        facts = files.facts()
        lock = lock_of(merge, target, job, [written], hash_inputs)
        config = files.config()
        lock |= {"adapter": _summary(drawn, facts, config, target.rank), "tensors": facts}
        texts = {LOCK: json.dumps(lock, indent=1) + "\n", RECIPE: to_toml(merge.recipe)}
        texts["README.md"] = _card(out.absolute().name, lock)
        texts[ADAPTER_CONFIG] = json.dumps(config, indent=2) + "\n"
        for name, text in texts.items():
            write_text(folder / name, text)
        for name in (*texts, WEIGHTS):  # the weights last: until then there is no adapter
            (folder / name).replace(out / name)
    sync_folder(out)
    return out


def _summary(
    drawn: Sketch, facts: Mapping[str, Facts], config: Mapping[str, Any], asked: int | None
) -> dict[str, Any]:
    named = Path(config["base_model_name_or_path"])
    factors = [entry for entry in facts.values() if "rank" in entry]
    length = math.sqrt(math.fsum(entry["norm"] ** 2 for entry in factors))
    error = math.sqrt(math.fsum((entry["relative_error"] * entry["norm"]) ** 2 for entry in factors))
    return {
        "base": location(drawn.base), "base_name": drawn.base.name if named.is_dir() else str(named),
        "asked_rank": asked,
        "ranks": [min((e["rank"] for e in factors), default=0), max((e["rank"] for e in factors), default=0)],
        "factors": len(factors), "whole": len(facts) - len(factors), "relative_error": relative(error, length),
    }  # fmt: skip


def _is_done(out: Path, job: str, *, resume: bool, overwrite: bool) -> bool:
    """Say whether a folder holds the whole result of a job.

    Raises:
        ConfigError: it holds something else.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: exists and is not a folder", "choose another output")
    if overwrite or not out.exists() or not any(out.iterdir()):
        return False
    if not resume:
        raise ConfigError(
            f"{out}: the folder is not empty", "add --resume to go on, or --overwrite to replace it"
        )
    lock = out / LOCK
    ours = lock.exists() and json.loads(lock.read_text(encoding="utf-8")).get("job") == job
    if all((out / name).exists() for name in (LOCK, ADAPTER_CONFIG, WEIGHTS)):
        if ours:
            shutil.rmtree(out / _STAGING, ignore_errors=True)
            return True
        raise ConfigError(
            f"{out}: was made by another job", "use the same recipe and inputs to resume, or --overwrite"
        )
    if not ours and not (out / _STAGING).exists():
        raise ConfigError(
            f"{out}: holds no unfinished job", "--overwrite replaces it, or choose another output"
        )
    return False


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Yield a folder inside `out` for files that are not whole yet; it goes in the end."""
    folder = out / _STAGING
    shutil.rmtree(folder, ignore_errors=True)
    with naming_full_disk(out):
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _card(name: str, lock: Mapping[str, Any]) -> str:
    facts = lock["adapter"]
    listed = ", ".join(f"`{entry['name']}`" for entry in lock["inputs"])
    ranks = " to ".join(str(rank) for rank in sorted(set(facts["ranks"])))
    made = f"by `{lock['recipe']['merge']['method']}`, with heredity {lock['heredity']}"
    body = [f"A LoRA adapter of `{facts['base_name']}`, merged from {listed} {made}.", ""]
    body += [
        f"{facts['factors']} tensors have factors of rank {ranks}; {facts['whole']} are whole. Relative Frobenius "
        f"error of the difference from the base: {facts['relative_error']:.2g}."
    ]
    body += ["", "## Recipe", "", "```toml", to_toml(lock["recipe"]).strip(), "```", ""]
    if lock["notes"]:
        body += ["## Notes", "", *(f"- {note}" for note in lock["notes"]), ""]
    body += ["`heredity.lock.json` has the hashes of all files and the error of every tensor;"]
    body += ["`heredity verify` checks them."]
    return write_card(
        name,
        "\n".join(body),
        base_models=[facts["base_name"]],
        relation="adapter",
        tags=["merge", "lora"],
        library="peft",
    )
