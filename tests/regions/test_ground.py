"""A place poured into the live model is that model: ends exactly, steps of their length, overflow named."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")

from heredity.checkpoint import Checkpoint  # noqa: E402
from heredity.corpora.labelled import read_task  # noqa: E402
from heredity.errors import CheckpointError, ConfigError, MismatchError  # noqa: E402
from heredity.family import Family  # noqa: E402
from heredity.models.batches import encode_task  # noqa: E402
from heredity.models.classifier import load_encoder  # noqa: E402
from heredity.models.finetune import finetune  # noqa: E402
from heredity.models.load import threads, tokenizer  # noqa: E402
from heredity.models.probe import probe  # noqa: E402
from heredity.models.tuning import FineTuning  # noqa: E402
from heredity.regions.ground import Ground  # noqa: E402
from heredity.regions.metrics import Generalised, own_heads  # noqa: E402
from heredity.regions.place import Direction, at, moving, selection, step  # noqa: E402
from heredity.regions.walk import barrier, centroid, hull_samples, line, outside, plane, spread, towards  # noqa: E402
from tiny_models import write_bert, write_task  # noqa: E402

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three fine-tunes with frozen embeddings, and their data."""
    root = tmp_path_factory.mktemp("ground")
    write_bert(root / "base")
    task = read_task(write_task(root, classes=3))
    config = FineTuning(learning_rate=1e-2, epochs=3, batch=8, max_tokens=16, freeze_embeddings=True)
    with threads(1):
        for seed, name in enumerate(NAMES):
            finetune(root / "base", task, root / name, config, seed=seed)
    return root


def opened(films: Path, folder: Path | None = None) -> Ground:
    family = Family.of({name: films / name for name in ("base", *NAMES)}, base="base")
    return Ground.open(family, kind="encoder", folder=folder)


@pytest.fixture(scope="module")
def ground(films: Path) -> Ground:
    return opened(films)


@pytest.fixture(scope="module")
def metric(films: Path) -> Generalised:
    task = read_task(str(films / "films"))
    return Generalised(encode_task(task, tokenizer(films / "base"), max_tokens=16))


def weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def flat(found: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([found[name].ravel().astype(np.float64) for name in sorted(found)])


def test_a_hull_point_of_one_member_is_the_member(films: Path, ground: Ground, metric: Generalised) -> None:
    assert "embeddings.word_embeddings.weight" not in ground.moved
    for name in NAMES:
        assert ground.pour(at("x", ("base", *NAMES), [float(m == name) for m in ("base", *NAMES)])) is None
        alone = weights(load_encoder(films / name))
        assert all(np.array_equal(value, alone[key]) for key, value in weights(ground.model).items())
        score = ground.score(ground.member(name), [metric])[0][0]
        assert score.loss == probe(load_encoder(films / name), metric.encoded, pooling="mean").loss


def test_the_middle_is_the_mean_and_a_step_has_its_length(ground: Ground) -> None:
    values = []
    for name in NAMES:
        ground.pour(ground.member(name))
        values.append(flat(weights(ground.model)))
    middle = centroid(NAMES)
    ground.pour(middle)
    here = flat(weights(ground.model))
    np.testing.assert_allclose(here, np.mean(values, axis=0), atol=1e-6)
    for place in outside(middle, 2, 3.0, seed=0, name="Ex"):
        ground.pour(place)
        assert np.linalg.norm(flat(weights(ground.model)) - here) == pytest.approx(3.0, rel=1e-3)
    ground.pour(middle)
    assert np.array_equal(flat(weights(ground.model)), here)
    assert spread(ground.products(NAMES)) == pytest.approx(
        np.mean([np.linalg.norm(v - np.mean(values, axis=0)) for v in values]), rel=1e-4
    )


def test_a_direction_is_keyed_and_shaped_by_tensor(ground: Ground) -> None:
    base = ground.member("base")
    ground.pour(base)
    before = weights(ground.model)
    ground.pour(step("s", base, Direction(seed=3, name="s", length=2.0)))
    once = weights(ground.model)
    ground.pour(step("s", base, Direction(seed=3, name="s", length=2.0)))
    assert all(np.array_equal(once[name], value) for name, value in weights(ground.model).items())
    moved = {name: np.linalg.norm(once[name] - before[name]) for name in before}
    assert {name for name, norm in moved.items() if norm > 0} == set(ground.moved)
    square, tall = "encoder.layer.0.attention.self.query.weight", "encoder.layer.0.intermediate.dense.weight"
    expected = np.sqrt(16 * 16 * 2 / 32) / np.sqrt(32 * 16 * 2 / 48)
    assert moved[square] / moved[tall] == pytest.approx(expected, rel=1e-3)


def test_scores_are_kept_and_measured_once(
    films: Path, metric: Generalised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(films, tmp_path)
    places = [first.member("a"), centroid(NAMES)]
    table = first.measure(places, [metric]).table()
    with (tmp_path / "evaluations.jsonl").open("ab") as file:
        file.write(b'{"key": "cut sho')
    again = opened(films, tmp_path)
    monkeypatch.setattr(again, "pour", None)  # nothing is poured: all is known
    assert again.measure(places, [metric]).table().equals(table)
    assert again.score(at("other name", ("a", "b"), [1.0, 0.0]), [metric])[0][0].loss == table["loss"][0]
    with pytest.raises(ConfigError, match="one name"):
        first.measure([places[0], places[0]], [metric])


def test_a_gram_that_cannot_be_read_is_measured_again(films: Path, tmp_path: Path) -> None:
    before = opened(films, tmp_path).norms()
    (tmp_path / "gram.safetensors").write_bytes(b"of another version")
    assert np.array_equal(opened(films, tmp_path).norms(), before)


@pytest.mark.slow  # two processes start
def test_several_processes_measure_the_same(
    films: Path, metric: Generalised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEREDITY_CACHE", str(tmp_path / "cache"))
    family = Family.of({name: films / name for name in ("base", *NAMES)}, base="base")
    places = [*hull_samples(NAMES, 3, seed=2, name="x"), at("far", ("a", "b"), [-1e39, 1e39 + 1])]
    with threads(1):
        alone = opened(films).measure(places, [metric]).table()
        along = Ground.open(family, kind="encoder", folder=tmp_path, jobs=2, threads=1)
        together = along.measure(places, [metric]).table()
        along.close()
    assert together.equals(alone)
    again = opened(films, tmp_path)
    monkeypatch.setattr(again, "pour", None)  # what they measured was kept
    assert again.measure(places, [metric]).table().equals(alone)


def test_overflow_is_named_and_costs_an_infinite_loss(ground: Ground, metric: Generalised) -> None:
    far = at("far", ("a", "b"), [-1e39, 1e39 + 1])
    table = ground.measure([far], [metric]).table()
    assert table["loss"][0] == np.inf
    assert "are not finite" in table["note"][0]
    assert np.isfinite(ground.measure([ground.member("b")], [metric]).loss[0, 0])


def test_only_some_tensors_move(ground: Ground) -> None:
    a, b = ground.member("a"), ground.member("b")
    ground.pour(a)
    start = weights(ground.model)
    ground.pour(moving(b, a, list(start), selection("attention")))
    after = weights(ground.model)
    changed = {name for name in start if not np.array_equal(start[name], after[name])}
    assert changed == {n for n in start if ".attention." in n and "LayerNorm" not in n}
    ground.pour(moving(b, a, list(start), selection("layers>=1")))
    after = weights(ground.model)
    assert {n for n in start if not np.array_equal(start[n], after[n])} == {
        n for n in start if "layer.1." in n
    }
    with pytest.raises(ConfigError, match="names no tensors"):
        selection("everything")
    with pytest.raises(ConfigError, match="no tensor is chosen"):
        moving(b, a, list(start), selection("layer=7"))


def test_lines_go_from_end_to_end_and_beyond() -> None:
    found = line("a", "b", steps=3, extrapolate=4.0, edge_steps=2)
    np.testing.assert_allclose(found.alphas, [-3, -1, 0, 0.5, 1, 2, 4])
    assert found.places[2].point.members == ("a",)
    np.testing.assert_allclose(found.places[0].point.coefficients, [4, -3])
    assert barrier([0, 0.5, 1], [1.0, 2.5, 2.0]) == pytest.approx(1.0)
    assert barrier([0, 0.5, 1], [1.0, 1.2, 2.0]) == 0.0
    assert barrier([-1, 0, 0.5, 1], [99.0, 1.0, np.inf, 2.0]) == np.inf
    with pytest.raises(ConfigError, match="both ends"):
        line("a", "a")
    with pytest.raises(ConfigError, match="α = 0"):
        barrier([0.1, 1], [1, 1])


def test_a_plane_holds_its_three_models(ground: Ground) -> None:
    names = ("base", *NAMES)
    found = plane(ground.products(names), names, "a", "b", "base", steps=4, margin=0.25)
    where = {name: np.array([x, y]) for name, x, y, _ in found.members}
    distance = {name: d for name, _, _, d in found.members}
    assert max(distance["a"], distance["b"], distance["base"]) < 1e-6 < distance["c"]
    products = ground.products(("a", "b"))
    apart = np.sqrt(products[0, 0] + products[1, 1] - 2 * products[0, 1])
    assert np.linalg.norm(where["b"] - where["a"]) == pytest.approx(apart)
    assert where["a"] == pytest.approx([0, 0], abs=1e-9)
    assert len(found.places) == len(found.x) * len(found.y)
    corner = found.places[0]
    row = dict(zip(corner.point.members, corner.point.coefficients, strict=True))
    assert sum(row.values()) == pytest.approx(1)
    assert sum(row[name] * where[name] for name in row) == pytest.approx([found.x[0], found.y[0]])
    with pytest.raises(ConfigError, match="three different"):
        plane(ground.products(names), names, "a", "a", "b")


def test_hull_samples_lie_in_the_hull_and_are_keyed() -> None:
    places = hull_samples(NAMES, 40, seed=1, name="In′")
    rows = np.array([place.point.coefficients for place in places])
    assert (rows > 0).all()
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    np.testing.assert_allclose(rows.mean(axis=0), 1 / 3, atol=0.1)
    assert np.array_equal(rows[3], hull_samples(NAMES, 40, seed=1, name="In′")[3].point.coefficients)


def test_towards_ends_at_the_goal() -> None:
    start = centroid(NAMES)
    assert towards(start, "base", 1.0, "x").point.members == ("base",)
    half = towards(start, "base", 0.5, "x")
    assert dict(zip(half.point.members, half.point.coefficients, strict=True)) == pytest.approx(
        {"a": 1 / 6, "b": 1 / 6, "c": 1 / 6, "base": 0.5}
    )


def test_own_heads_are_mixed_with_their_members(films: Path, ground: Ground, metric: Generalised) -> None:
    heads = own_heads({name: films / name for name in NAMES}, metric.encoded)
    from heredity.models.finetune import read_finetuned

    score = ground.score(ground.member("a"), [heads])[0][0]
    assert score.loss == pytest.approx(read_finetuned(films / "a")[1].scores["test_loss"], abs=1e-5)
    assert ground.score(centroid(NAMES), [heads])[0][0].accuracy > 0.5
    with pytest.raises(MismatchError, match="no heads to mix"):
        ground.score(ground.member("base"), [heads])


def test_strangers_are_refused(films: Path, tmp_path: Path) -> None:
    write_bert(tmp_path / "small", layers=1)
    family = Family.of({"base": films / "base", "small": tmp_path / "small"}, base="base")
    with pytest.raises(MismatchError, match="member small lacks"):
        Ground.open(family, kind="encoder")
    with pytest.raises(ConfigError, match="one member"):
        Ground.open(Family.of({"base": films / "base"}, base="base"), kind="encoder")
    assert Checkpoint.open(films / "a").tensors.keys() == Checkpoint.open(films / "base").tensors.keys()


def test_a_member_of_other_tokens_or_with_nan_is_refused(films: Path, tmp_path: Path) -> None:
    for name in ("renumbered", "broken"):
        shutil.copytree(films / "a", tmp_path / name)
    words = tmp_path / "renumbered" / "tokenizer.json"
    words.write_text(words.read_text().replace('"good":5', '"good":6').replace('"bad":6', '"bad":5'))
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][3] = np.nan
    save_file(weights, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    for name, error, what in (
        ("renumbered", MismatchError, "numbers its tokens in another way"),
        ("broken", CheckpointError, "1 of 16 elements are NaN or infinite"),
    ):
        family = Family.of({"base": films / "base", name: tmp_path / name}, base="base")
        with pytest.raises(error, match=what) as found:
            Ground.open(family, kind="encoder")
        assert "--allow-nonfinite" not in found.value.hint
    with pytest.raises(ConfigError, match="not a causal language model"):
        Ground.open(Family.of({n: films / n for n in ("base", "a")}, base="base"), kind="lm")
    task = read_task(str(films / "films"))
    with pytest.raises(CheckpointError, match=r"0\.output\.dense\.bias holds NaN"):
        finetune(tmp_path / "broken", task, tmp_path / "out", FineTuning(max_tokens=16))
    assert not (tmp_path / "out").exists()
