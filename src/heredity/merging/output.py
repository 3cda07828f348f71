"""Write a merge as a folder that `from_pretrained` loads; resumable, whole or not at all.

The lock file holds what the result depends on and what came out: inputs, versions, seed, facts, hashes.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from heredity import __version__
from heredity.atomic import write_text
from heredity.blas import one_blas_thread
from heredity.card import write_card
from heredity.checkpoint import JOURNAL, Checkpoint
from heredity.digests import FileState, digest_of, known_digest, state
from heredity.errors import CheckpointError, DiskFullError, MismatchError
from heredity.execute import choose
from heredity.merging._open import configured, input_files, location, tokenized
from heredity.merging.data import statistics_files
from heredity.merging.engine import Facts, Merge, Target
from heredity.merging.plan import Plan, output_dtype
from heredity.tomlfile import to_toml
from heredity.writer import CheckpointWriter, Fill, Planned, Shard, Written, write_shard

LOCK, RECIPE = "heredity.lock.json", "heredity.toml"
SCHEMA = 2  # of the lock
_FACTS = ".heredity-facts-{}.json"  # of a finished shard, until the merge is whole

Progress = Callable[[str, int], None]


def planned_tensors(plan: Plan, dtype: str | None) -> list[Planned]:
    """Return the tensors of the result as they will be written, in the order in which they are made."""
    return [Planned(name, output_dtype(info, dtype), info.shape) for name, info in plan.tensors.items()]


def save(
    merge: Merge,
    out: Path,
    target: Target,
    *,
    shard_bytes: int,
    resume: bool,
    overwrite: bool,
    hash_inputs: bool,
    jobs: int,
    ray: str | None,
    progress: Progress,
) -> Path:
    """Write the folder: see `Merge.save`.

    Raises:
        CheckpointError: an input changed while it was merged.
        ConfigError: the folder is not empty.
        DiskFullError: there is not enough room.
    """
    before = input_states(merge)
    tensors = planned_tensors(merge.plan, target.dtype)
    check_room(out, sum(t.nbytes for t in tensors), resume)
    job = job_of(merge, before)
    if resume and not overwrite and _is_done(out, job):
        return out
    writer = CheckpointWriter.open(
        out, tensors, job=job, shard_bytes=shard_bytes, resume=resume, overwrite=overwrite
    )
    todo = [s for s in writer.shards if s.file not in writer.written or not _facts_file(out, s).exists()]
    execution = choose(jobs, ray)
    task = partial(_write, merge, out, progress if execution.jobs == 1 and ray is None else None)
    for written in execution.map(task, todo):
        refuse_changed(before)
        writer.add(written)
        if execution.jobs > 1 or ray is not None:
            progress(written.file, written.nbytes)
    lock = lock_of(merge, target, job, writer.written.values(), hash_inputs) | {"tensors": _all_facts(writer)}
    files = {LOCK: json.dumps(lock, indent=1) + "\n", RECIPE: to_toml(merge.recipe)}
    files["README.md"] = _card(out.absolute().name, lock)
    tokenizer = tokenized(target.donor) if target.tokenizer is None else target.tokenizer
    writer.finish(donor=configured(target.donor), files=files, config=target.config, tokenizer=tokenizer)
    _is_done(out, job)
    return out


def job_of(merge: Merge, states: Mapping[Path, FileState], **further: Any) -> str:
    """Return what a result is made of and how, as a sha256."""
    facts = {"recipe": merge.recipe, "seed": merge.seed, "inputs": _identity(states), "version": __version__}
    facts["schema"] = SCHEMA
    return hashlib.sha256(json.dumps(facts | further, sort_keys=True, default=_plain).encode()).hexdigest()


def lock_of(
    merge: Merge, target: Target, job: str, written: Iterable[Written], hash_inputs: bool
) -> dict[str, Any]:
    """Return what the lock holds besides the facts of each tensor."""
    return {
        "schema": SCHEMA,
        "heredity": __version__,
        "job": job,
        "seed": merge.seed,
        "recipe": dict(merge.recipe),
        "models": dict(target.models),
        "inputs": [_input_record(checkpoint, hash_inputs) for checkpoint in merge.checkpoints.values()],
        "donor": configured(target.donor).name,
        "notes": list(merge.plan.notes),
        "outputs": {
            w.file: {"bytes": w.nbytes, "digest": w.digest} for w in sorted(written, key=lambda w: w.file)
        },
    }


def input_states(merge: Merge) -> dict[Path, FileState]:
    """Return the state of every file that a merge depends on."""
    stored = [file for checkpoint in merge.checkpoints.values() for file in input_files(checkpoint)]
    return {file: state(file) for file in [*stored, *statistics_files(merge.plan)]}


def _is_done(out: Path, job: str) -> bool:
    """Say whether a folder holds the whole result of a job; what helped to make it is removed then."""
    finished = all((out / name).exists() for name in (LOCK, "config.json")) and not (out / JOURNAL).exists()
    if not finished or json.loads((out / LOCK).read_text()).get("job") != job:
        return False
    for left in [*out.glob(_FACTS.format("*")), *out.glob(".*.tmp")]:
        left.unlink()
    return True


def plan_record(merge: Merge) -> dict[str, Any]:
    """Return what identifies a merge: its recipe, seed, and the state of every input file."""
    inputs = _identity(input_states(merge))
    return {"schema": 1, "recipe": dict(merge.recipe), "seed": merge.seed, "inputs": inputs}


def check_agreed(merge: Merge, record: Mapping[str, Any], source: Path) -> None:
    """Refuse to merge anything but what a plan was made of.

    Raises:
        MismatchError: the recipe or an input is another one than when it was planned.
    """
    now = json.loads(json.dumps(plan_record(merge)))
    if now["recipe"] != record.get("recipe") or now["seed"] != record.get("seed"):
        raise MismatchError(f"{source}: was made of another recipe", "plan again")
    for entry in now["inputs"]:
        if entry not in record.get("inputs", []):
            raise MismatchError(f"{entry[0]}: changed since it was planned in {source}", "plan again")


def _write(merge: Merge, out: Path, progress: Progress | None, shard: Shard) -> Written:
    """Write one shard and what was found out about its tensors."""
    facts: dict[str, Facts] = {}
    with one_blas_thread():  # the small products of samples: a second thread would only wait, at full load
        written = write_shard(out, shard, _maker(merge, facts, progress or (lambda name, nbytes: None)))
    write_text(_facts_file(out, shard), json.dumps(facts))
    return written


def _maker(
    merge: Merge, facts: dict[str, Facts], progress: Progress
) -> Callable[[Planned], Iterator[ndarray | Fill]]:
    """Return what makes the bytes of a tensor and keeps its facts."""
    plan = merge.plan

    def make(tensor: Planned) -> Iterator[ndarray | Fill]:
        if tensor.name in plan.copied:
            progress(tensor.name, tensor.nbytes)
            yield plan.groups[plan.copied[tensor.name]].inputs[0].raw(tensor.name)
            return
        facts[tensor.name] = {}
        for piece in merge.pieces(tensor.name, tensor.dtype, facts[tensor.name]):
            progress(tensor.name, piece.nbytes)
            yield piece

    return make


def check_room(out: Path, needed_bytes: int, resume: bool) -> None:
    """Check that the result fits on the disk.

    Raises:
        DiskFullError: it does not.
    """
    folder = next(p for p in (out, *out.absolute().parents) if p.exists())
    there = sum(f.stat().st_size for f in out.glob("*.safetensors")) if resume and out.exists() else 0
    free = shutil.disk_usage(folder).free
    if needed_bytes - there > free:
        raise DiskFullError(
            f"{out}: the result takes {needed_bytes / 1e9:.2f} GB, {free / 1e9:.2f} GB are free",
            "free some space, or choose another output; nothing was written",
        )


def refuse_changed(before: Mapping[Path, FileState]) -> None:
    """Check that no input was touched since its state was taken.

    Raises:
        CheckpointError: naming the one that was.
    """
    for file, known in before.items():
        if not state(file).same_as(known):
            hint = "leave the inputs alone and merge again with --overwrite"
            raise CheckpointError(f"{file}: changed while it was merged", hint)


def _identity(states: Mapping[Path, FileState]) -> list[list[Any]]:
    """Return what must be the same for a merge to go on; not the hashes: they may become known."""
    return [[str(file), s.nbytes, s.mtime_ns, s.inode] for file, s in states.items()]


def _input_record(checkpoint: Checkpoint, hash_now: bool) -> dict[str, Any]:
    digest = digest_of if hash_now else known_digest
    files = {f.name: {"bytes": f.stat().st_size, "digest": digest(f)} for f in input_files(checkpoint)}
    return {"name": checkpoint.name, "path": location(checkpoint), "files": files}


def _card(name: str, lock: Mapping[str, Any]) -> str:
    inputs = [entry["name"] for entry in lock["inputs"]]
    listed = ", ".join(f"`{entry}`" for entry in inputs)
    body = [
        f"A merge of {listed} by `{lock['recipe']['merge']['method']}`, with heredity {lock['heredity']}.",
        "",
    ]
    body += [f"Configuration and tokenizer come from `{lock['donor']}`.", "", "## Recipe", ""]
    body += ["```toml", to_toml(lock["recipe"]).strip(), "```", ""]
    if lock["notes"]:
        body += ["## Notes", "", *(f"- {note}" for note in lock["notes"]), ""]
    body += ["`heredity.lock.json` has the hashes of all files and what was done to every tensor;"]
    body += ["`heredity verify` checks them."]
    return write_card(name, "\n".join(body), base_models=inputs)


def _facts_file(folder: Path, shard: Shard) -> Path:
    return folder / _FACTS.format(Path(shard.file).stem)


def _all_facts(writer: CheckpointWriter) -> dict[str, Facts]:
    found: dict[str, Facts] = {}
    for shard in writer.shards:
        found |= json.loads(_facts_file(writer.path, shard).read_text())
    return dict(sorted(found.items()))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
