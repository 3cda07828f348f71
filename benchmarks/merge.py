"""Time merges of a 1.1 B family beside mergekit and beside the floor: reading inputs, writing the result.

    HEREDITY_MERGEKIT_PYTHON=… python benchmarks/merge.py FAMILY SCRATCH [--methods linear slerp …]

FAMILY is made by benchmarks/synthetic.py. Every number is of a whole process, started for it: CPU seconds
(user and system), wall seconds, peak anonymous memory sampled every 20 ms. Inputs are in the page cache if
they fit; floors and heredity run several times, interleaved, and their medians are printed. All runs go to
SCRATCH/merge.json as they come.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from synthetic import make_family

RECIPES = {
    "linear": (2, "parameters: {weight: 0.5}"),
    "slerp": (2, "parameters: {t: 0.58}"),
    "task_arithmetic": (3, "parameters: {weight: 0.5}"),
    "model_stock": (3, ""),
    "karcher": (2, ""),
    "ties": (3, "parameters: {weight: 0.5, density: 0.5}"),
    "dare_ties": (3, "parameters: {weight: 0.5, density: 0.5}"),
}
FLOOR = """
import os, sys
reads, *files = sys.argv[1:]
out, files = files[0], files[1:]
buffer = bytearray(1 << 20)
for i in range(int(reads)):
    sink = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if i == int(reads) - 1 else None
    for number, file in enumerate(files):
        source = os.open(file, os.O_RDONLY)
        while count := os.readv(source, [buffer]):
            if sink is not None and number < len(files) // max(1, len(files) // SHARDS):
                os.write(sink, memoryview(buffer)[:count])
        os.close(source)
    if sink is not None:
        os.fsync(sink)
"""


def measured(command: list[str], environment: dict[str, str] | None = None) -> dict[str, float]:
    """Run a command and return its CPU and wall seconds and its peak anonymous memory in MB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    peak = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            for line in status.splitlines():
                if line.startswith("RssAnon"):
                    peak[0] = max(peak[0], int(line.split()[1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stdout is not None
    output = process.stdout.read()
    _, code, usage = os.wait4(process.pid, 0)
    done.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{output.decode()[-3000:]}")
    wall = time.perf_counter() - started
    cpu = usage.ru_utime + usage.ru_stime
    memory = round(peak[0] / 1024, 1)
    return {"cpu_seconds": round(cpu, 2), "wall_seconds": round(wall, 2), "anonymous_mb": memory}


def recipe(method: str, family: Path) -> str:
    """Return mergekit's YAML of a method over base, a, b (two or three inputs)."""
    count, extra = RECIPES[method]
    names = ["a", "b"] if count == 2 else ["base", "a", "b"]
    models = "\n".join(f"  - model: {family / name}" for name in names if name != "base")
    base = f"base_model: {family / names[0]}\n" if count == 3 or method == "slerp" else ""
    return f"merge_method: {method}\n{base}models:\n{models}\ndtype: float32\nout_dtype: bfloat16\n{extra}\n"


def floor(family: Path, out: Path, count: int, reads: int) -> dict[str, float]:
    """Measure reading `count` models `reads` times and writing one."""
    names = ["a", "b"] if count == 2 else ["base", "a", "b"]
    shards = [sorted((family / name).glob("*.safetensors")) for name in names]
    files = [str(file) for model in shards for file in model]
    code = FLOOR.replace("SHARDS", str(len(shards[0])))
    return measured([sys.executable, "-c", code, str(reads), str(out), *files])


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(RECIPES))
    parser.add_argument("--many", type=int, default=0, help="also merge so many copies by linear")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the floors and of heredity")
    arguments = parser.parse_args()
    scratch, family = arguments.scratch.absolute(), arguments.family.absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    peer = "" if arguments.no_peer else os.environ.get("HEREDITY_MERGEKIT_PYTHON", "")
    heredity = [sys.executable, "-m", "heredity", "merge"]
    rows: list[dict[str, Any]] = []

    def record(**row: Any) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        (scratch / "merge.json").write_text(json.dumps(rows, indent=1))

    make_family((scratch / "tiny").absolute(), "tiny", ["a", "b"])
    floor(family, scratch / "floor", 3, 1)  # inputs come into the page cache before anything is measured
    for method in arguments.methods:
        count, _ = RECIPES[method]
        config = scratch / f"{method}.yml"
        config.write_text(recipe(method, family))
        tiny = scratch / f"{method}-tiny.yml"
        tiny.write_text(recipe(method, scratch / "tiny"))
        plan = [*heredity, str(config), str(scratch / "x"), "--dry-run"]
        start = [*heredity, str(tiny), str(scratch / "x"), "-q"]
        command = [*heredity, str(config), str(scratch / "ours"), "-q"]
        for _ in range(arguments.repeats):  # interleaved: what disturbs the machine disturbs all of them
            for reads in (1, 2):
                record(
                    method=method,
                    who=f"floor, {reads} read",
                    **floor(family, scratch / "floor", count, reads),
                )
                (scratch / "floor").unlink()
            record(method=method, who="heredity, dry run", **measured(plan))
            record(method=method, who="heredity, tiny family", **measured(start))
            shutil.rmtree(scratch / "x")
            record(method=method, who="heredity", **measured(command))
            shutil.rmtree(scratch / "ours")
        if peer:
            program = str(Path(peer).parent / "mergekit-yaml")
            command = [program, str(config), str(scratch / "peer"), "--no-copy-tokenizer"]
            record(method=method, who="mergekit", **measured(command))
            shutil.rmtree(scratch / "peer")
        print(_ratios(method, rows), flush=True)
    if arguments.many:
        names = [family / "ab"[i % 2] for i in range(arguments.many)]
        links = scratch / "many"
        links.mkdir(exist_ok=True)
        for i, name in enumerate(names):
            (links / f"m{i}").unlink(missing_ok=True)
            (links / f"m{i}").symlink_to(name)
        models = "\n".join(f"  - model: {links / f'm{i}'}" for i in range(arguments.many))
        config = scratch / "many.yml"
        config.write_text(f"merge_method: linear\nmodels:\n{models}\nparameters: {{weight: 1}}\n")
        record(
            method=f"linear of {arguments.many}", who="heredity",
            **measured([*heredity, str(config), str(scratch / "ours"), "-q"]),
        )  # fmt: skip
        shutil.rmtree(scratch / "ours")
    print(_table(rows))


def _medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for every method and program: medians of its runs."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["method"], row["who"]), []).append(row)
    numbers = ("cpu_seconds", "wall_seconds", "anonymous_mb")
    return [
        {"method": method, "who": who, "runs": len(runs)}
        | {name: statistics.median(run[name] for run in runs) for name in numbers}
        for (method, who), runs in found.items()
    ]


def _ratios(method: str, rows: list[dict[str, Any]]) -> str:
    """Return what mergekit costs over heredity, and heredity without its start-up over the floors."""
    cpu = {row["who"]: row["cpu_seconds"] for row in _medians(rows) if row["method"] == method}
    work = cpu["heredity"] - cpu["heredity, tiny family"]
    parts = [f"{work / cpu[f'floor, {reads} read']:.2f} × the floor of {reads} read" for reads in (1, 2)]
    if "mergekit" in cpu:
        parts = [f"mergekit costs {cpu['mergekit'] / cpu['heredity']:.1f} ×", *parts]
    return f"{method}: {'; '.join(parts)}"


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| method | who | runs | CPU s | wall s | anonymous MB |", "|---|---|---|---|---|---|"]
    for row in _medians(rows):
        names = ("method", "who", "runs", "cpu_seconds", "wall_seconds", "anonymous_mb")
        cells = [row[name] for name in names]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
