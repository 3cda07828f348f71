"""What the lock says of each tensor, and its sums by layer and kind, equal oracles over the whole tensors."""

import json
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from merge_pico import LLAMA, family, read, weights

from heredity import merging
from heredity.checkpoint import Checkpoint
from heredity.cli._main import run
from heredity.merging import merge
from heredity.merging.observe import effective_t, sample_of
from heredity.merging.tables import grouped_rows, layers_table, tensor_rows, tensors_table
from heredity.merging.verify import read_lock
from heredity.writer import write_checkpoint

NAME = "model.layers.1.mlp.up_proj.weight"


def facts(tmp_path: Path, method: Any, models: str = "ab", base: bool = True) -> tuple[dict[str, Any], Any]:
    """Merge a pico family and return the lock, and every model's weights in float64 (the result as "out")."""
    made = family(tmp_path, models=len(models))
    out = merge(method, [tmp_path / m for m in models], tmp_path / "base" if base else None).save(
        tmp_path / "o"
    )
    known = {name: read(checkpoint) for name, checkpoint in made.items()} | {
        "out": read(Checkpoint.open(out))
    }
    exact = {
        model: {n: w.astype(np.float64).ravel() for n, w in tensors.items()}
        for model, tensors in known.items()
    }
    return read_lock(out), exact


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


METHODS = [
    merging.TaskArithmetic(weight=(0.7, 0.4)), merging.ModelStock(), merging.Ties(density=0.5),
    merging.DareTies(density=0.5), merging.Della(density=0.5, epsilon=0.1), merging.Breadcrumbs(density=0.7),
    merging.Sce(select_topk=0.5), merging.Ram(), merging.RamplusTl(), merging.Linear(weight=(1, 3)),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_task_vectors_and_the_nearest_mixture(tmp_path: Path, method: Any) -> None:
    based = not isinstance(method, merging.Linear)
    lock, known = facts(tmp_path, method, base=based)
    seen = lock["tensors"][NAME]
    base, a, b, out = (known[m][NAME] for m in ("base", "a", "b", "out"))
    first = base if based else a
    inputs = [base, a, b] if based else [a, b]
    assert seen["norms"] == pytest.approx([np.sqrt(w @ w) for w in inputs], rel=1e-5)
    assert seen["distances"] == pytest.approx([np.linalg.norm(w - first) for w in inputs[1:]], rel=1e-5)
    assert seen["cosine"] == pytest.approx(cosine(a - base, b - base) if based else cosine(a, b), abs=1e-5)
    matrix = np.stack([w - first for w in inputs[1:]], axis=1)
    nearest, left = np.linalg.lstsq(matrix, out - first, rcond=None)[:2]
    mixture = seen.get("coefficients") or seen["effective"]
    assert mixture[1:] == pytest.approx(nearest.tolist(), abs=1e-4)
    assert sum(mixture) == pytest.approx(1, abs=1e-4)
    share = nearest[1] / nearest.sum() if based else nearest[0]
    assert seen["t"] == pytest.approx(share, abs=1e-4)
    if "coefficients" in seen:
        assert "effective" not in seen
        assert "explained" not in seen
    else:
        assert seen["explained"] == pytest.approx(1 - left[0] / ((out - first) @ (out - first)), abs=1e-4)
    if isinstance(method, merging.TaskArithmetic | merging.ModelStock | merging.Ram | merging.RamplusTl):
        apart = ((a - base) * (b - base) < 0).mean()
        assert seen["sign_conflicts"] == pytest.approx(apart, abs=1e-5)
    assert ("sign_conflicts" in seen) == based
    assert "sampled" not in seen  # pico tensors are looked at whole
    json.dumps(lock, allow_nan=False)


def test_shares_that_are_kept(tmp_path: Path) -> None:
    lock, known = facts(tmp_path, merging.Sce(select_topk=0.5))
    base, a, b = (known[m][NAME] for m in ("base", "a", "b"))
    spread = np.var(np.stack([a - base, b - base]).astype(np.float32), axis=0)
    assert lock["tensors"][NAME]["kept"] == pytest.approx([0.5, 0.5], abs=2 / spread.size)
    assert lock["tensors"][NAME]["weights"] == pytest.approx(
        np.array([((m - base)[spread >= np.median(spread)] ** 2).sum() for m in (a, b)])
        / sum(((m - base)[spread >= np.median(spread)] ** 2).sum() for m in (a, b)), abs=0.01,
    )  # fmt: skip
    out = merge(merging.ArceeFusion(), [tmp_path / "a", tmp_path / "b"]).save(tmp_path / "fusion")
    fused, kept = read(Checkpoint.open(out))[NAME].ravel(), read_lock(out)["tensors"][NAME]["kept"]
    assert kept == pytest.approx([(fused != a.astype(np.float32)).mean()], abs=2 / a.size)
    out = merge(merging.Ram(epsilon=0.01), [tmp_path / "a", tmp_path / "b"], tmp_path / "base").save(
        tmp_path / "ram"
    )
    wanted = [(np.abs((m - base).astype(np.float32)) > 0.01).mean() for m in (a, b)]
    assert read_lock(out)["tensors"][NAME]["kept"] == pytest.approx(wanted, abs=2 / a.size)


def test_many_models_have_all_pairs_or_their_range(tmp_path: Path) -> None:
    lock, known = facts(tmp_path, merging.TaskArithmetic(weight=0.2), models="abcd")
    seen = lock["tensors"][NAME]
    moved = [known[m][NAME] - known["base"][NAME] for m in "abcd"]
    pairs = [cosine(x, y) for x, y in combinations(moved, 2)]
    assert seen["cosines"] == pytest.approx(pairs, abs=1e-5)
    assert seen["cosine_range"] == pytest.approx([min(pairs), max(pairs)], abs=1e-5)
    assert "t" not in seen
    whole = grouped_rows(tensor_rows(lock))[0]
    everything = [np.concatenate([known[m][n] - known["base"][n] for n in lock["tensors"]]) for m in "abcd"]
    assert whole["cosines"] == pytest.approx([cosine(x, y) for x, y in combinations(everything, 2)], abs=1e-5)
    start = np.concatenate([known["base"][n] for n in lock["tensors"]])
    wanted = [np.linalg.norm(x) / np.linalg.norm(start) for x in everything]
    assert whole["moved"] == pytest.approx(wanted, rel=1e-5)
    made = family(tmp_path / "more", models=8)
    out = merge(merging.Linear(), list(made.values())[1:]).save(tmp_path / "out")
    seen = read_lock(out)["tensors"][NAME]
    assert "cosines" not in seen
    assert len(seen["cosine_range"]) == 2
    assert grouped_rows(tensor_rows(read_lock(out)))[0]["cosines"] is None


def test_large_tensors_are_estimated_from_four_places(tmp_path: Path) -> None:
    shapes = {"model.layers.0.mlp.up_proj.weight": (700, 300), "model.norm.weight": (300,)}
    base = weights(shapes, 0, 0.1)
    for i, name in enumerate("xab"):
        delta = weights(shapes, i, 0.02 if i else 0.0)
        write_checkpoint(tmp_path / name, {n: (base[n] + delta[n], "F32") for n in base}, config=LLAMA)
    method = merging.Ties(density=0.5)
    out = merge(method, [tmp_path / "a", tmp_path / "b"], tmp_path / "x").save(tmp_path / "o")
    name = "model.layers.0.mlp.up_proj.weight"
    seen = read_lock(out)["tensors"][name]
    a, b, x, merged = (Checkpoint.open(tmp_path / m).read(name).ravel().astype(np.float64) for m in "abxo")
    assert 0.04 < seen["sampled"] < 0.1
    assert seen["cosine"] == pytest.approx(cosine(a - x, b - x), abs=0.03)
    assert seen["distances"] == pytest.approx([np.linalg.norm(a - x), np.linalg.norm(b - x)], rel=0.03)
    nearest = np.linalg.lstsq(np.stack([a - x, b - x], axis=1), merged - x, rcond=None)[0]
    assert seen["effective"][1:] == pytest.approx(nearest.tolist(), abs=0.03)
    assert seen["kept"] == pytest.approx([0.5, 0.5], abs=1e-5)  # counted, not estimated


@pytest.mark.parametrize("shape", [(), (3,), (1 << 20,), (4096, 4096), (3, 100_000), (8, 64, 9000), (0, 5)])
@pytest.mark.parametrize("inputs", [2, 3, 50])
def test_samples_are_whole_rows_inside_the_tensor(shape: tuple[int, ...], inputs: int) -> None:
    size = int(np.prod(shape, dtype=np.int64))
    pieces = sample_of(shape, inputs)
    width = shape[-1] if len(shape) > 1 else 1
    assert all(0 <= start < stop <= size for start, stop in pieces)
    assert all(start % width == 0 and stop % width == 0 for start, stop in pieces)
    assert all(first[1] <= second[0] for first, second in pairwise(pieces))
    assert sum(stop - start for start, stop in pieces) <= max(1 << 14, 4 * width)


def test_effective_t() -> None:
    assert effective_t([0.25, 0.75], deltas=False) == 0.75
    assert effective_t([0.2, 0.2, 0.6], deltas=True) == pytest.approx(0.75)
    assert effective_t([0.4, 0.6], deltas=True) == pytest.approx(0.6)  # one model: from the base towards it
    assert effective_t([1, -1], deltas=False) is None
    assert effective_t([1, 1, 1], deltas=False) is None


def test_models_that_are_the_base_or_zero_have_no_cosine(tmp_path: Path) -> None:
    made = family(tmp_path, models=1)
    zero = {n: (np.zeros_like(w), "F32") for n, w in read(made["a"]).items()}
    write_checkpoint(tmp_path / "zero", zero, config=LLAMA)
    for method, models, base in (
        (merging.Ties(), ["base", "a"], "zero"), (merging.Linear(), ["zero", "a"], None),
        (merging.Slerp(t=0.5), ["zero", "zero"], None),
    ):  # fmt: skip
        start = None if base is None else tmp_path / base
        out = merge(method, [tmp_path / m for m in models], start).save(tmp_path / "o", overwrite=True)
        json.dumps(read_lock(out), allow_nan=False)
        assert grouped_rows(tensor_rows(read_lock(out)), ("kind",))


def test_tables_and_weights_of_the_means(tmp_path: Path) -> None:
    lock = {"tensors": {
        "model.layers.0.mlp.up_proj.weight": {"t": 0.2, "kept": [0.5, 0.1], "lerp": True},
        "model.layers.0.input_layernorm.weight": {"t": 0.8, "kept": [0.5, 0.3]},
        "lm_head.weight": {"averaged": True},
    }}  # fmt: skip
    table = layers_table(
        lock, {"model.layers.0.mlp.up_proj.weight": 300, "model.layers.0.input_layernorm.weight": 100}
    )
    assert table["layer"].to_list() == [0, None]
    assert table["t"].to_list() == [pytest.approx(0.35), None]
    assert table["kept"].to_list() == [pytest.approx(0.325), None]
    assert table["kept_each"].to_list()[0] == pytest.approx([0.5, 0.15])
    assert table["lerp"].to_list() == [0.75, 0.0]
    assert table["averaged"].to_list() == [0.0, 1.0]
    rows = tensors_table(lock)
    assert rows["kind"].to_list() == ["mlp", "norm", "head"]
    assert rows.schema["kept"] == pl.List(pl.Float64)
    assert [row["kind"] for row in grouped_rows(tensor_rows(lock), ("layer", "kind"))] == [
        "mlp",
        "norm",
        "head",
    ]


def test_the_report_stands_beside_the_merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family(tmp_path, models=2)
    recipe, out, page = tmp_path / "recipe.toml", tmp_path / "out", tmp_path / "page.html"
    recipe.write_text('[merge]\nmethod = "ties"\nbase = "base"\nmodels = ["a", "b"]\ndensity = 0.5\n')
    assert run(["merge", str(recipe), str(out), "-q", "--report", str(out / "page.html")]) == 2
    assert "a checkpoint and nothing else" in capsys.readouterr().err
    assert not out.exists()
    assert run(["merge", str(recipe), str(out), "-q", "--json", "--report", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == [str(page), str(tmp_path / "page.parquet")]
    assert "The merge out" in page.read_text()
    table = pl.read_parquet(tmp_path / "page.parquet")
    assert table.height == len(read_lock(out)["tensors"])
    assert table["elements"].sum() == sum(w.size for w in read(Checkpoint.open(out)).values())
    before = sorted(path.name for path in out.iterdir())
    assert run(["report", str(out)]) == 0
    assert (tmp_path / "out-report.html").read_bytes() == page.read_bytes()
    assert sorted(path.name for path in out.iterdir()) == before
