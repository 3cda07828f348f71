"""A run folder: what was asked, with which versions and seed, what came out, and how far it got.

run.json · config.toml · log.txt · metrics.jsonl · tables/*.parquet · report.html
"""

import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from heredity import __version__
from heredity.atomic import replacing, write_text
from heredity.blas import one_blas_thread
from heredity.errors import ConfigError, StoreError, naming_full_disk
from heredity.tomlfile import to_toml

_PACKAGES = (
    "numpy",
    "numba",
    "scipy",
    "scikit-learn",
    "polars",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
)


class Run:
    """A folder that one command fills, resumes and reads back.

    Every file in it appears whole or not at all. `done(stage)` and `finish_stage(stage)` are the journal by
    which an interrupted command goes on where it stopped.
    """

    def __init__(self, path: Path, state: dict[str, Any]) -> None:
        self.path = path
        self._state = state
        self._started = time.perf_counter()
        self._cpu = time.process_time()

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        command: str,
        config: Mapping[str, Any],
        seed: int,
        resume: bool = False,
        overwrite: bool = False,
    ) -> "Run":
        """Create a run folder, or go on with one.

        Args:
            path: folder; created when missing.
            command: what is run, for the record.
            config: plain values; a resumed run must have been started with the same ones.
            seed: the one seed of the run.
            resume: go on with a folder that the same command and configuration started.
            overwrite: discard the journal, the tables and the sub-folders that an earlier run made here.

        Raises:
            ConfigError: the folder is not empty and neither `resume` nor `overwrite` is given, holds something
                other than a run, or was started with another configuration.
        """
        path = Path(path)
        if any(part.exists() and not part.is_dir() for part in (path, *path.parents)):
            raise ConfigError(f"{path}: exists and is not a folder", "choose another output with -o")
        state = {
            "schema": 1, "command": command, "config": json.loads(json.dumps(config)), "seed": seed,
            "status": "running", "stages": {}, "folders": [], "environment": environment(),
        }  # fmt: skip
        record = path / "run.json"
        if path.exists() and any(path.iterdir()):
            if not resume and not overwrite:
                raise ConfigError(
                    f"{path}: the folder is not empty", "add --resume to go on, or --overwrite to start anew"
                )
            if not record.exists():
                raise ConfigError(f"{path}: not a run folder (no run.json)", "choose another output with -o")
        if record.exists() and not overwrite:
            before = read_record(record)
            for field in ("command", "config", "seed"):
                if before[field] != state[field]:
                    raise ConfigError(
                        f"{path}: was started with another {field}{_first_difference(before[field], state[field])}",
                        "use the same settings to resume, --overwrite to start anew, or another -o",
                    )
            state["stages"], state["folders"] = before["stages"], before.get("folders", [])
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, state)
        if record.exists() and overwrite:
            state["folders"] = read_record(record).get("folders", [])
            run._save()  # first of all the journal forgets: killed from here on, nothing passes for done
            for folder in state["folders"]:
                if Path(folder).name == folder:  # a name of ours, not a path that leads elsewhere
                    shutil.rmtree(path / folder, ignore_errors=True)
            for stale in (
                *path.glob("tables/*.parquet"),
                path / "metrics.jsonl",
                path / "log.txt",
                path / "report.html",
            ):
                stale.unlink(missing_ok=True)
        write_text(path / "config.toml", to_toml(config))
        run._save()
        return run

    def folder(self, name: str) -> Path:
        """Return a sub-folder that belongs to the run: `overwrite` removes it with the run."""
        if name not in self._state["folders"]:
            self._state["folders"].append(name)
            self._save()
        return self.path / name

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self._state["seed"])

    def done(self, stage: str) -> bool:
        """Say whether a stage has been finished by this or an earlier process."""
        return stage in self._state["stages"]

    def finish_stage(self, stage: str, **facts: Any) -> None:
        """Record that a stage's outputs are on disk, with its wall seconds and any facts worth keeping."""
        now, cpu = time.perf_counter(), time.process_time()
        self._state["stages"][stage] = {
            "wall_seconds": round(now - self._started, 3), "cpu_seconds": round(cpu - self._cpu, 3), **facts,
        }  # fmt: skip
        self._started, self._cpu = now, cpu
        self._save()
        self.log(f"{stage}: done")

    def start_stage(self) -> None:
        """Start the clock of the next stage here, so that what came before is not counted as its time."""
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def facts(self, stage: str) -> dict[str, Any]:
        """Return what `finish_stage` recorded."""
        return dict(self._state["stages"][stage])

    def log(self, text: str) -> None:
        """Append a dated line to log.txt."""
        with (
            naming_full_disk(self.path / "log.txt"),
            (self.path / "log.txt").open("a", encoding="utf-8") as file,
        ):
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def metric(self, **values: Any) -> None:
        """Append one JSON object to metrics.jsonl."""
        line = json.dumps(values, allow_nan=False)
        with (
            naming_full_disk(self.path / "metrics.jsonl"),
            (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file,
        ):
            file.write(line + "\n")

    def drop_metrics(self, **match: Any) -> None:
        """Remove the lines of metrics.jsonl whose fields have these values, before they are made again."""
        target = self.path / "metrics.jsonl"
        if not target.exists():
            return
        rows = [
            json.loads(line) for line in target.read_text(encoding="utf-8").splitlines() if line.endswith("}")
        ]
        kept = [row for row in rows if any(row.get(k) != v for k, v in match.items())]
        write_text(target, "".join(json.dumps(row) + "\n" for row in kept))

    def write_table(self, name: str, table: pl.DataFrame) -> Path:
        """Write tables/NAME.parquet whole."""
        target = self.path / "tables" / f"{name}.parquet"
        with replacing(target) as temporary:
            table.write_parquet(temporary, statistics=False)
        return target

    def table(self, name: str) -> pl.DataFrame:
        """Read a table back.

        Raises:
            StoreError: the run has no such table, or it is damaged.
        """
        source = self.path / "tables" / f"{name}.parquet"
        if not source.exists():
            raise StoreError(f"{source}: no such table", "run the command that makes it, or resume the run")
        try:
            return pl.read_parquet(source)
        except pl.exceptions.PolarsError as error:
            raise StoreError(
                f"{source}: cannot be read ({str(error).splitlines()[0]})", "--overwrite makes the run anew"
            ) from None

    def has_table(self, name: str) -> bool:
        """Say whether the run has a table."""
        return (self.path / "tables" / f"{name}.parquet").exists()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Run a block and record how it ended: done, interrupted or failed.

        numpy's products in it use one thread, so that tables do not depend on how many a machine has.
        """
        try:
            with one_blas_thread():
                yield
        except KeyboardInterrupt:
            self.finish("interrupted")
            raise
        except BaseException:
            self.finish("failed")
            raise
        self.finish("done")

    def finish(self, status: str) -> None:
        """Record how the command ended: done, failed or interrupted."""
        self._state["status"] = status
        self._save()

    def record(self) -> dict[str, Any]:
        """Return run.json as plain values."""
        return dict(json.loads(json.dumps(self._state)))

    def _save(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._state["peak_rss_bytes"] = peak if sys.platform == "darwin" else peak * 1024
        write_text(self.path / "run.json", json.dumps(self._state, indent=1) + "\n")


def read_record(path: Path, hint: str = "--overwrite starts anew") -> dict[str, Any]:
    """Read a run.json.

    Args:
        path: the file.
        hint: what to do about one that cannot be read.

    Raises:
        ConfigError: it is not one.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a run record ({error.strerror})", hint) from None
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read as a run record ({error})", hint) from None
    if not isinstance(state, dict) or not {"command", "config", "seed", "stages"} <= state.keys():
        raise ConfigError(f"{path}: not a run record", hint)
    if not isinstance(state["stages"], dict) or not isinstance(state.get("folders", []), list):
        raise ConfigError(f"{path}: not a run record", hint)
    return state


def environment() -> dict[str, Any]:
    """Return the versions and the machine that a number may depend on."""
    versions = {"heredity": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "platform": platform.platform(), "cpus": os.cpu_count()}


def _first_difference(before: Any, after: Any, path: str = "") -> str:
    """Name the first setting that differs, as ` (sae.k: 32 before, 16 now)`."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        before, after = dict(enumerate(before)), dict(enumerate(after))
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                return _first_difference(
                    before.get(name), after.get(name), f"{path}.{name}" if path else str(name)
                )
    return f" ({path + ': ' if path else ''}{before!r} before, {after!r} now)"
