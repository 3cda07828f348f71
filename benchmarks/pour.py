"""Time pouring points of a 22.7 M encoder's family into a live model, against one fused weighted sum of the same bytes.

    python benchmarks/pour.py FOLDER [--members 8] [--points 100]

FOLDER gets a base of MiniLM's shape (BERT, 6 layers, hidden 384, float32) and its members, 91 MB each, once. The floor
is measured in the same run, interleaved with the points: every member's bytes, read from the page cache into a buffer
of 64 k elements and multiplied and added by the same kernel as one flat array, written to one array of float32. The
resident floor has all members in memory already. Then the cost of measuring a point: the features of 1,000 texts of 16
tokens. CPU seconds of this process, medians; no file is written while points are poured.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

from heredity.checkpoint import Checkpoint
from heredity.family import Family, Member
from heredity.kernels.combine import weighted_sum
from heredity.models.load import quiet_transformers
from heredity.regions.ground import Ground
from heredity.regions.walk import hull_samples
from heredity.seeds import generator

STEP = 1 << 16


def make_family(folder: Path, members: int) -> Family:
    """Write the base and its members, those that are not there; every tensor of every member moves."""
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    names = [f"m{n}" for n in range(members)]
    for number, name in enumerate(["base", *names]):
        if (folder / name / "config.json").exists():
            continue
        torch.manual_seed(0)
        model = BertModel(config, add_pooling_layer=False)
        with torch.no_grad():
            for tensor, parameter in model.named_parameters():
                if number:
                    rng = generator(0, "pour benchmark", name, tensor)
                    noise = torch.from_numpy(rng.standard_normal(tuple(parameter.shape), np.float32))
                    parameter.add_(noise, alpha=1e-3)
        with quiet_transformers():
            model.save_pretrained(folder / name)
        print(f"made {name}", flush=True)
    made = [Member(name="base", path="base"), *(Member(name=n, path=n, parents=("base",)) for n in names)]
    return Family("pour", made, folder)


def flat_files(checkpoints: dict[str, Checkpoint], names: list[str]) -> tuple[list[tuple[int, int]], int]:
    """Open every member's file; return (descriptor, first byte of the data) of each and the number of elements."""
    opened, size = [], 0
    for name in names:
        tensors = checkpoints[name].tensors.values()
        start = min(info.start for info in tensors)
        size = sum(info.size for info in tensors)
        opened.append((os.open(checkpoints[name].files[0], os.O_RDONLY), start))
    return opened, size


def floor(opened: list[tuple[int, int]], size: int, factors: np.ndarray, out: np.ndarray) -> None:
    """Read all members in blocks and add them up, as one flat array."""
    raw = np.empty((len(opened), 4 * STEP), np.uint8)
    codes = np.zeros(len(opened), np.int64)
    for low in range(0, size, STEP):
        high = min(size, low + STEP)
        for (descriptor, start), row in zip(opened, raw, strict=True):
            os.preadv(descriptor, [row.data[: 4 * (high - low)]], start + 4 * low)
        weighted_sum(raw, codes, factors, out[low:high])


def timed(action: Callable[[], object]) -> float:
    """Return the CPU seconds of an action."""
    started = time.process_time()
    action()
    return time.process_time() - started


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--points", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    family = make_family(arguments.folder, arguments.members)
    ground = Ground.open(family, kind="encoder", folder=arguments.folder / "ground")
    names = list(ground.members)
    places = hull_samples(names, arguments.points, seed=0, name="point")
    opened, size = flat_files(ground.checkpoints, names)
    out = np.empty(size, np.float32)
    resident = np.stack([np.fromfile(ground.checkpoints[n].files[0], np.uint8)[-4 * size :] for n in names])
    codes = np.zeros(len(names), np.int64)

    def shares(place: object) -> np.ndarray:
        return np.asarray(place.point.coefficients, np.float32)  # type: ignore[attr-defined]

    warm = places[0]
    ground.pour(warm)
    floor(opened, size, shares(warm), out)
    weighted_sum(resident, codes, shares(warm), out)
    seconds: dict[str, list[float]] = {"floor": [], "resident": [], "pour": []}
    for place in places:
        factors = shares(place)
        seconds["floor"].append(timed(lambda factors=factors: floor(opened, size, factors, out)))
        seconds["resident"].append(timed(lambda factors=factors: weighted_sum(resident, codes, factors, out)))
        seconds["pour"].append(timed(lambda place=place: ground.pour(place)))
    ids = torch.randint(1000, 20_000, (50, 16))
    texts = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        ground.model(**texts)
        features = [timed(lambda: [ground.model(**texts) for _ in range(20)]) for _ in range(3)]
    seconds["features of 1,000 texts"] = features
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in median.items():
        print(f"{name:24} {value:8.3f} CPU s   {value / median['floor']:6.2f} × floor")
    result = {
        "members": len(names), "points": len(places), "parameters": size, "median_cpu_seconds": median,
        "pour_over_floor": median["pour"] / median["floor"], "pour_over_resident": median["pour"] / median["resident"],
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
