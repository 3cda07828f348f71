"""Cost of one Gram pass against the floor of the same bytes: read, decode, multiply, measured in one run.

    python benchmarks/gram.py passes   [--members 8] [--preset gpt2]       ratio to the floor
    python benchmarks/gram.py curve    [--members 8 16 …] [--svg FILE]     CPU seconds per model, as a plot
    python benchmarks/gram.py pairwise [--members 8]                       against a peer that diffs pairs
    python benchmarks/gram.py billion  [--members 32]                      1.1 B each, by ranges

CPU seconds are compared, never wall seconds; every measurement runs in a fresh process with one thread.
Checkpoints are synthesised (base ~ N(0, 0.02), member = base + 0.1 · 0.02 · noise), and removed unless
--folder is given. Read rates are those of the page cache if the family fits into it.

`pairwise` runs weightscope by the interpreter named in HEREDITY_WEIGHTSCOPE_PYTHON, a venv of its own.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before numpy is imported

import numpy as np  # noqa: E402
from drawing import Line, draw  # noqa: E402

from heredity import seeds  # noqa: E402
from heredity.kernels.encode import encode  # noqa: E402

PRESETS = {  # layers, width, inner width, width of keys and values, vocabulary
    "pico": (2, 128, 384, 64, 1000),
    "gpt2": (12, 768, 3072, 768, 50257),
    "tinyllama": (22, 2048, 5632, 256, 32000),
}
RELATIVE = 0.1


def shapes(preset: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama-shaped model; gpt2 has 124 M parameters, tinyllama 1.1 B."""
    layers, d, inner, kv, vocabulary = PRESETS[preset]
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, d),
        "model.norm.weight": (d,),
    }
    for i in range(layers):
        p = f"model.layers.{i}."
        found |= {f"{p}self_attn.q_proj.weight": (d, d), f"{p}self_attn.o_proj.weight": (d, d)}
        found |= {f"{p}self_attn.k_proj.weight": (kv, d), f"{p}self_attn.v_proj.weight": (kv, d)}
        if preset == "gpt2":  # two matrices, as GPT-2 has
            found |= {f"{p}mlp.up_proj.weight": (inner, d), f"{p}mlp.down_proj.weight": (d, inner)}
        else:
            found |= {f"{p}mlp.{x}_proj.weight": (inner, d) for x in ("gate", "up")}
            found |= {f"{p}mlp.down_proj.weight": (d, inner)}
        found |= {f"{p}input_layernorm.weight": (d,), f"{p}post_attention_layernorm.weight": (d,)}
    return found if preset != "tinyllama" else {**found, "lm_head.weight": (vocabulary, d)}


def synthesise(folder: Path, members: list[str], names: dict[str, tuple[int, ...]]) -> None:
    """Write tensors of all members that are not there yet, the base first; neither hashed nor flushed.

    Noise is drawn once; member m adds it rotated by m · 1009 elements, so no two are equal.
    """
    sizes = {name: int(np.prod(shape)) for name, shape in names.items()}
    stops = np.cumsum(list(sizes.values())).tolist()
    header = json.dumps(
        {
            name: {
                "dtype": "BF16",
                "shape": shape,
                "data_offsets": [2 * (stop - sizes[name]), 2 * stop],
            }
            for (name, shape), stop in zip(names.items(), stops, strict=True)
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    base = seeds.generator(0, "base", *names).standard_normal(stops[-1], np.float32)
    base *= np.float32(0.02)
    noise = seeds.generator(0, "noise", *names).standard_normal(stops[-1], np.float32)
    noise *= np.float32(0.02 * RELATIVE)
    for number, member in enumerate(members):
        (folder / member).mkdir(parents=True, exist_ok=True)
        if (folder / member / "config.json").exists():
            continue
        with (folder / member / "model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for start in range(0, stops[-1], 1 << 20):
                block = base[start : start + (1 << 20)]
                if number:
                    first = (start + number * 1009) % stops[-1]
                    added = noise[first : first + block.size]
                    if added.size < block.size:
                        added = np.concatenate([added, noise[: block.size - added.size]])
                    block = block + added
                file.write(encode(block, "BF16"))
        (folder / member / "config.json").write_text(
            json.dumps({"model_type": "llama", "tie_word_embeddings": "lm_head.weight" not in names})
        )


def measured(task: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Run a task in a fresh process; return its CPU and wall seconds, its anonymous peak, and its result."""
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=_child, args=(child, task, arguments))
    process.start()
    found: dict[str, Any] = parent.recv()
    process.join()
    return found


def floor(paths: list[str]) -> dict[str, float]:
    """Time apart: read every byte, decode it, multiply float32 blocks [K + 1, 65536] by their transpose."""
    from heredity import Checkpoint
    from heredity.kernels.decode import decode_block

    checkpoints = [Checkpoint.open(path) for path in paths]
    block = np.random.default_rng(0).normal(size=(len(paths), 1 << 16)).astype(np.float32)
    product, buffer, out = (
        np.zeros((len(paths),) * 2),
        np.empty(1 << 17, np.uint8),
        np.empty(1 << 16, np.float32),
    )
    decode_block(buffer, 1, out)  # compiled, or read from the cache, before the clock starts
    seconds = dict.fromkeys(("read", "decode", "gemm"), 0.0)
    for name, info in checkpoints[0].tensors.items():
        if name == "lm_head.weight":
            continue
        for start in range(0, info.size, 1 << 16):
            stop = min(info.size, start + (1 << 16))
            for checkpoint in checkpoints:
                t0 = time.process_time()
                with checkpoint.reading(name) as reader:
                    t0 = time.process_time()
                    reader.read_raw(start, stop, buffer)
                t1 = time.process_time()
                decode_block(buffer, 1, out[: stop - start])
                seconds["read"] += t1 - t0
                seconds["decode"] += time.process_time() - t1
            t0 = time.process_time()
            product += block[:, : stop - start] @ block[:, : stop - start].T
            seconds["gemm"] += time.process_time() - t0
    return seconds


def gram(paths: list[str], elements: bool) -> float:
    """Measure a family; return the CPU seconds of the pass itself, without imports and headers."""
    from heredity import Checkpoint, Gram

    checkpoints = {Path(path).name: Checkpoint.open(path) for path in paths}
    small = {
        n: c.renamed({"model.norm.weight": "model.norm.weight"}) for n, c in list(checkpoints.items())[:2]
    }
    Gram.compute(small, reference="base", elements=elements)
    started = time.process_time()
    found = Gram.compute(checkpoints, reference="base", elements=elements)
    cosine = found.total()["all"].deltas
    assert abs(cosine[0, 1]) / cosine[0, 0] < 0.01, "independent members must be orthogonal"
    return time.process_time() - started


def digest(paths: list[str]) -> None:
    """Hash all files."""
    import hashlib

    for path in paths:
        with (Path(path) / "model.safetensors").open("rb") as file:
            hashlib.file_digest(file, "sha256")


def passes(folder: Path, preset: str, members: int) -> None:
    """Print the ratio of the pass to the floor."""
    paths = prepared(folder, preset, members)
    size = sum(int(np.prod(s)) for n, s in shapes(preset).items() if n != "lm_head.weight")
    rounds = [(measured(floor, paths)["result"], measured(gram, paths, False)) for _ in range(3)]
    bottom, plain = min(rounds, key=lambda r: r[1]["result"])
    bottom = {part: min(r[0][part] for r in rounds) for part in bottom}
    total = sum(bottom.values())
    counted, hashed = measured(gram, paths, True), measured(digest, paths)
    print(
        f"{members} members + base, {size / 1e6:.0f} M parameters each, bf16, "
        f"{2 * size * (members + 1) / 1e9:.2f} GB"
    )
    print(
        "floor: " + ", ".join(f"{part} {s:.2f}" for part, s in bottom.items()) + f", in all {total:.2f} CPU s"
    )
    print(f"pass: {plain['result']:.2f} CPU s = {plain['result'] / total:.2f} × the floor")
    print(
        f"whole process with start-up: {plain['cpu_seconds']:.2f} CPU s, {plain['wall_seconds']:.2f} s wall"
    )
    print(f"peak anonymous memory: {plain['anonymous_mb']:.0f} MB")
    print(
        f"apart: element statistics +{counted['result'] - plain['result']:.2f} CPU s; "
        f"hashing {hashed['cpu_seconds']:.2f} CPU s"
    )


def curve(folder: Path, preset: str, counts: list[int], svg: Path | None) -> None:
    """Print CPU seconds per model as the family grows; beyond the K² term it must be flat."""
    paths = prepared(folder, preset, max(counts))
    whole, below, streamed = [], [], []  # per model: the pass, the floor, the floor without its products
    for k in counts:
        rounds = [(measured(floor, paths[: k + 1]), measured(gram, paths[: k + 1], False)) for _ in range(2)]
        least = {part: min(r[0]["result"][part] for r in rounds) for part in ("read", "decode", "gemm")}
        found = min((r[1] for r in rounds), key=lambda r: r["result"])
        whole.append(found["result"] / (k + 1))
        below.append(sum(least.values()) / (k + 1))
        streamed.append((least["read"] + least["decode"]) / (k + 1))
        print(f"K = {k:3d}: {found['result']:7.2f} CPU s, {whole[-1]:.3f} per model, "
              f"{whole[-1] / below[-1]:.2f} × the floor (read {least['read']:.2f}, decode "
              f"{least['decode']:.2f}, gemm {least['gemm']:.2f}), "
              f"anonymous {found['anonymous_mb']:.0f} MB", flush=True)  # fmt: skip
    slope, constant = np.polyfit(np.array(counts) + 1, whole, 1)
    flat = [y - slope * (k + 1) for k, y in zip(counts, whole, strict=True)]
    print(f"per model: {constant:.4f} + {slope:.5f} · (K + 1) CPU s by least squares; without the second term "
          f"{min(flat):.4f} … {max(flat):.4f}")  # fmt: skip
    if svg is not None:
        lines = [Line("one pass", whole), Line("pass, without K² term", flat)]
        lines += [Line("floor", below), Line("floor: read and decode", streamed)]
        size = sum(int(np.prod(s)) for s in shapes(preset).values()) / 1e6
        svg.write_text(
            draw(
                f"CPU seconds per model of {size:.0f} M, bf16", "members K", "CPU s per model", counts, lines
            )
        )


def pairwise(folder: Path, preset: str, members: int, limit: int | None) -> None:
    """Print CPU seconds of whole processes: one pass over the family, and a peer that diffs pair after pair."""
    peer = os.environ.get("HEREDITY_WEIGHTSCOPE_PYTHON")
    if not peer:
        sys.exit("HEREDITY_WEIGHTSCOPE_PYTHON is not set: name the interpreter of a venv with weightscope")
    paths = prepared(folder, preset, members)
    ask = [peer, "-c", "from importlib.metadata import version as v; print(v('weightscope'), v('torch'))"]
    versions = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.split()
    out, report = folder / "measured", folder / "report.md"
    passed = {}
    for elements in (False, True):
        command = [sys.executable, "-c", PASS, str(int(elements)), str(out), *paths]
        processor_seconds(command)  # kernels compiled, files in the page cache
        passed[elements] = min(processor_seconds(command) for _ in range(3))
    tiny = prepared(folder, "pico", 1)
    start = min(processor_seconds([sys.executable, "-c", PASS, "0", str(out), *tiny]) for _ in range(3))
    pairs = list(combinations(paths, 2))
    done = pairs[:limit]
    cost = []
    for a, b in done:
        command = [peer, "-c", "from weightscope.cli import main; main()", "diff", a, b, "-o", str(report)]
        cost.append(processor_seconds(command))
        report.unlink()  # it was written, or this fails
    scale = len(pairs) / len(done)
    start_of_peer = min(processor_seconds([peer, "-c", DIFFS, *tiny]) for _ in range(3))
    together = processor_seconds([peer, "-c", DIFFS, *(path for pair in done for path in pair)])
    together = start_of_peer + (together - start_of_peer) * scale
    how = "all measured" if len(done) == len(pairs) else f"extrapolated from {len(done)}"
    print(f"heredity, {members} members + base in one process: {passed[False]:.2f} CPU s; "
          f"with element statistics {passed[True]:.2f}")  # fmt: skip
    print(f"weightscope {versions[0]} (torch {versions[1]}): {min(cost):.2f} … {max(cost):.2f} CPU s a pair")
    print(f"start-up, on a tiny model: heredity {start:.2f}, weightscope {start_of_peer:.2f} CPU s")
    for name, total, less in (
        ("a process a pair", sum(cost) * scale, 0.0),
        ("its function, one process", together, 0.0),
        ("its function, both without start-up", together - start_of_peer, start),
    ):
        if passed[False] - less < 0.1:
            continue  # too small to tell from start-up
        print(f"{len(pairs)} pairs ({how}), {name}: {total:.1f} CPU s, {total / (passed[False] - less):.0f} × "
              f"the pass, {total / (passed[True] - less):.0f} × with element statistics")  # fmt: skip
    inner = (members - 1) / (members + 1)
    print(f"only the {round(len(pairs) * inner)} pairs of members, a process a pair: in proportion "
          f"{sum(cost) * scale * inner / passed[False]:.0f} × the pass, "
          f"{sum(cost) * scale * inner / passed[True]:.0f} × with element statistics")  # fmt: skip


PASS = """
import sys
from pathlib import Path
from heredity import Checkpoint, Gram
models = {Path(path).name: Checkpoint.open(path) for path in sys.argv[3:]}
Gram.compute(models, reference="base", elements=sys.argv[1] == "1").save(sys.argv[2])
"""


DIFFS = """
import sys
from weightscope.diff import diff_models
for a, b in zip(sys.argv[1::2], sys.argv[2::2]):
    diff_models(a, b)
"""


def processor_seconds(command: Sequence[str]) -> float:
    """Run a process to its end; return its CPU seconds, start-up included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def billion(folder: Path, members: int) -> None:
    """Measure 1.1 B × members range by range: synthesise a range of all members, measure it, delete it."""
    from heredity.gram import grams_of

    tensors: dict[str, Any] = {}
    cpu = peak = disk = 0.0
    names = shapes("tinyllama")
    groups = [dict(list(names.items())[i : i + 12]) for i in range(0, len(names), 12)]
    for number, group in enumerate(groups):
        part = folder / f"range{number}"
        synthesise(part, ["base", *(f"m{i:02d}" for i in range(1, members + 1))], group)
        paths = [str(p) for p in sorted(part.iterdir())]
        disk = max(disk, sum(f.stat().st_size for f in part.rglob("*.safetensors")) / 1e9)
        found = measured(ranged, paths)
        cpu, peak = cpu + found["cpu_seconds"], max(peak, found["anonymous_mb"])
        tensors |= found["result"]
        shutil.rmtree(part)
        print(
            f"{len(tensors)}/{len(names)} tensors, {cpu:.1f} CPU s, disk {disk:.1f} GB, "
            f"anonymous {peak:.0f} MB",
            flush=True,
        )
    total = grams_of(tensors, "base").total()["all"]
    norms = np.sqrt(
        np.diagonal(total.deltas)
    )  # the base's own rounding is in every difference: cosine 2.4e-4
    cosines = (total.deltas / np.outer(norms, norms))[np.triu_indices(members, 1)]
    print(
        f"{members} × {total.size / 1e9:.2f} B: cosines of independent members "
        f"{cosines.min():.1e} … {cosines.max():.1e}"
    )


def ranged(paths: list[str]) -> Any:
    """Measure one range of tensors, heads included."""
    from heredity import Checkpoint, Gram

    return Gram.compute(
        {Path(p).name: Checkpoint.open(p) for p in paths}, reference="base", include_head=True
    ).tensors


def prepared(folder: Path, preset: str, members: int) -> list[str]:
    """Write the family where it is not there yet; return its folders, the base first."""
    names = ["base", *(f"m{i:02d}" for i in range(1, members + 1))]
    synthesise(folder / preset, names, shapes(preset))
    for name in names:  # or writing back would compete with what is measured
        with (folder / preset / name / "model.safetensors").open("rb") as file:
            os.fsync(file.fileno())
    return [str(folder / preset / name) for name in names]


def _child(pipe: Any, task: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import threading

    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            peak[0] = max(
                peak[0], next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))
            )

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    result = task(*arguments)
    wall = time.perf_counter() - started
    stop.set()
    watcher.join()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    facts = {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": wall,
        "anonymous_mb": peak[0],
        "result": result,
    }
    pipe.send(facts)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=["passes", "curve", "pairwise", "billion"], nargs="?", default="passes"
    )
    parser.add_argument("--members", type=int, nargs="+")
    parser.add_argument("--preset", choices=PRESETS, default="gpt2")
    parser.add_argument("--pairs", type=int, help="diff only so many pairs, and extrapolate")
    parser.add_argument("--svg", type=Path, help="where `curve` draws its plot")
    parser.add_argument("--folder", type=Path, help="keep the checkpoints here")
    parser.add_argument("--quick", action="store_true", help="a tiny preset, to see that it runs")
    options = parser.parse_args()
    preset = "pico" if options.quick else options.preset
    folder = options.folder or Path(tempfile.mkdtemp(prefix="heredity-gram-"))
    try:
        if options.what == "passes":
            passes(folder, preset, (options.members or [8])[0])
        elif options.what == "curve":
            curve(folder, preset, options.members or [8, 16, 24, 32, 48, 64], options.svg)
        elif options.what == "pairwise":
            pairwise(folder, preset, (options.members or [8])[0], options.pairs)
        else:
            billion(folder, (options.members or [32])[0])
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
