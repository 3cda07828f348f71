"""Training steps of sparse autoencoders beside SAELens, and the matrix products that they cannot do without.

    python benchmarks/sae.py [topk-large topk-small l1-large l1-small] [--rounds 5] [--torch-products]

large is 1024 → 16384, small 256 → 4096; TopK has k = 32; of L1's latents half fire, as in a training's first
steps. Batches of 4096 tokens, float32, one thread. Every side is a process of its own that holds its data;
they take one step each in turn, and the median of the CPU seconds (user and system) of each counts. A step is
a whole one: a batch drawn, forward, backward, Adam, and what the loop keeps account of.

The limit is the least arithmetic at the rate of the fastest float32 product that torch, numpy and oneDNN
offer, measured in the same turns on the same shapes: 2 · d_in · d_sae operations per token for TopK (the encoder; its
other products are sparse), five times that for L1 (two products forward, three backward).

Memory is the most that a process held resident in the steps, beyond what it did with imports and data alone.

SAELens is run by the interpreter named in HEREDITY_SAELENS_PYTHON, a venv of its own, and left out without it.
Its own trainer takes the steps with its own training classes; TopK with and without its sparse activations.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before numpy and torch are imported

import numpy as np  # noqa: E402
from sae_peer import forget_peak, resident  # noqa: E402

SIZES = {"large": (1024, 16_384), "small": (256, 4096)}
K = 32
BATCH = 4096
BATCHES = 4  # held in memory
GOALS = {"topk": (4.0, 0.45, 1 / 3), "l1": (1.25, 0.65, 1 / 2)}  # × SAELens, of the limit, of its memory


class Side:
    """A process that takes a step whenever it is told to."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name, self.seconds, self.extra = name, [], 0.0
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.what = self._line()
        self.step()
        self.seconds.clear()  # the first step also makes the optimiser's state

    def step(self) -> None:
        """Take one step."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds, self.extra = map(float, self._line().split())
        self.seconds.append(seconds)

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            sys.exit(f"{self.name}: ended early")
        return line

    def end(self) -> None:
        """Close its input and wait."""
        self.process.communicate()


class Held:
    """Activations in memory, read as an `ActivationStore` is."""

    def __init__(self, rows: np.ndarray) -> None:
        from heredity.features.store import StoreMeta

        self.rows, self.n_tokens, self.d = rows, len(rows), rows.shape[1]
        self.meta = StoreMeta(
            member="benchmark", model_digest="", site="", stream_digest="", context=1, n_tokens=len(rows),
            d=rows.shape[1], dtype="float32", shard_tokens=len(rows),
        )  # fmt: skip

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return rows by number."""
        return self.rows[rows]


def ours(kind: str, path: str, d_in: int, d_sae: int, dtype: str, torch_products: bool) -> None:
    """Train, waiting for a line on standard input before every step, and answering with its costs."""
    import torch

    from heredity import __version__
    from heredity.features import product
    from heredity.features.sae import L1, TopK
    from heredity.features.train import Training, train

    torch.set_num_threads(1)
    if torch_products:
        product._has_onednn = lambda: False
    data = np.load(path)

    def go(rows: np.ndarray, latents: int, k: int, batch: int, steps: int, callback: Any) -> None:
        variant = L1(d_sae=latents, l1=0.01) if kind == "l1" else TopK(d_sae=latents, k=k)
        settings = Training(tokens=steps * batch, batch_tokens=batch, rate=1e-5, dtype=dtype)
        train(variant, Held(rows), settings, seed=0, callback=callback, progress=False)

    go(
        np.ascontiguousarray(data[:64, :8]), 64, 4, 16, 2, None
    )  # kernels are compiled, or read from the cache
    forget_peak()
    before, began = resident("VmRSS"), 0.0
    print(f"heredity {__version__} on torch {torch.__version__}", flush=True)

    def answer(_: Any) -> None:
        nonlocal began
        if began:
            print(time.process_time() - began, resident("VmHWM") - before, flush=True)
        if not sys.stdin.readline():
            raise SystemExit
        began = time.process_time()

    go(data, d_sae, K, BATCH, 10**6, answer)


def activations(d_in: int) -> np.ndarray:
    """Return sums of few directions and noise, of mean squared norm d_in, as MLP activations are."""
    from heredity.seeds import generator

    draw = generator(0, "sae benchmark", d_in)
    directions = draw.standard_normal((4 * d_in, d_in), np.float32)
    codes = draw.standard_exponential((BATCHES * BATCH, 4 * d_in), np.float32)
    codes *= draw.random(codes.shape, np.float32) < 20 / (4 * d_in)
    rows: np.ndarray = codes @ directions
    rows += 0.3 * rows.std() * draw.standard_normal(rows.shape, np.float32)
    rows *= np.float32(np.sqrt(d_in / np.square(rows).sum(axis=1).mean()))
    return rows


def products(d_in: int, d_sae: int) -> dict[str, Callable[[], Any]]:
    """Return float32 products of a batch with an encoder, ready to be timed."""
    import torch

    from heredity.features.product import by_rows, chunk_tokens

    torch.set_num_threads(1)
    x, rows = torch.randn(BATCH, d_in), torch.randn(d_sae, d_in)
    out = torch.empty(BATCH, d_sae)
    a, b, c = x.numpy(), rows.numpy().T, out.numpy()
    return {
        "torch.mm": lambda: torch.mm(x, rows.T, out=out),
        "numpy": lambda: np.matmul(a, b, out=c),
        "oneDNN": lambda: [by_rows(part, rows) for part in x.split(chunk_tokens(d_sae))],
    }


def compare(name: str, rounds: int, torch_products: bool, folder: Path) -> None:
    """Measure one kind and size, and print what was found."""
    kind, size = name.split("-")
    d_in, d_sae = SIZES[size]
    data = folder / f"{size}.npy"
    if not data.exists():
        np.save(data, activations(d_in))
    shape = [str(d_in), str(d_sae)]
    sides = []
    command = [sys.executable, __file__, "--as", kind, "--data", str(data), "--shape", *shape, "--dtype"]
    sides.append(Side("heredity, float32", [*command, "float32"]))
    if kind == "topk":
        sides.append(Side("heredity, bfloat16", [*command, "bfloat16"]))
    if torch_products:
        sides.append(Side("heredity, torch's own products", [*command, "float32", "--torch-products"]))
    peer = os.environ.get("HEREDITY_SAELENS_PYTHON")
    for style in (["topk", "topk-sparse"] if kind == "topk" else ["l1"]) if peer else []:
        script = str(Path(__file__).with_name("sae_peer.py"))
        command = [str(peer), script, style, str(data), *shape, str(K), str(BATCH)]
        sides.append(Side("SAELens" + ", sparse activations" * (style == "topk-sparse"), command))
    rates: dict[str, list[float]] = {}
    timed = products(d_in, d_sae)
    for _ in range(rounds):
        for side in sides:
            side.step()
        for which, product in timed.items():
            began = time.process_time()
            product()
            rates.setdefault(which, []).append(2 * BATCH * d_in * d_sae / (time.process_time() - began) / 1e9)
    for side in sides:
        side.end()
    report(name, sides, {which: median(found) for which, found in rates.items()}, 2 * d_in * d_sae)


def report(name: str, sides: list[Side], rates: dict[str, float], operations: int) -> None:
    """Print one table row per side, and how float32 stands to the goals, which are meant for large."""
    kind = name.split("-")[0]
    limit = max(rates.values()) * 1e9 / (operations * (5 if kind == "l1" else 1))
    print(f"\n{name}: {' · '.join(sorted({side.what for side in sides}))}")
    print(f"float32 products, GFLOP/s: {', '.join(f'{which} {rate:.0f}' for which, rate in rates.items())}; "
          f"limit {limit:,.0f} tokens/s")  # fmt: skip
    speed = {side.name: BATCH / median(side.seconds) for side in sides}
    peers = [side for side in sides if side.name.startswith("SAELens")]
    print("| | tokens per CPU second (slowest … fastest step) | of the limit | × SAELens | extra MiB |")
    print("|---|---|---|---|---|")
    for side in sides:
        ratio = speed[side.name] / max(speed[p.name] for p in peers) if peers else float("nan")
        spread = f"{BATCH / max(side.seconds):,.0f} … {BATCH / min(side.seconds):,.0f}"
        print(f"| {side.name} | {speed[side.name]:,.0f} ({spread}) | {speed[side.name] / limit:.0%} | "
              f"{ratio:.2f} | {side.extra:,.0f} |")  # fmt: skip
    own, (faster, share, memory) = sides[0], GOALS[kind]
    if peers:
        ratio = speed[own.name] / max(speed[p.name] for p in peers)
        usual, least = own.extra / peers[0].extra, own.extra / min(p.extra for p in peers)
        print(f"float32: {ratio:.2f} × SAELens at its fastest (goal {faster}); "
              f"{speed[own.name] / limit:.0%} of the limit (goal {share:.0%}); "
              f"{usual:.2f} of its usual memory (goal {memory:.2f}), {least:.2f} of its least", flush=True)  # fmt: skip


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = [f"{kind}-{size}" for kind in GOALS for size in SIZES]
    parser.add_argument("what", nargs="*", default=every, help=f"of {' '.join(every)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--torch-products", action="store_true", help="one more side, whose products are torch.mm's"
    )
    for hidden in ("--as", "--data", "--dtype"):
        parser.add_argument(hidden, dest=hidden[2:] + "_", help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_:
        ours(options.as_, options.data_, *options.shape, options.dtype_, options.torch_products)
        return
    with tempfile.TemporaryDirectory(prefix="heredity-sae-") as folder:
        for name in options.what:
            compare(name, options.rounds, options.torch_products, Path(folder))


if __name__ == "__main__":
    main()
