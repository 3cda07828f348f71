"""Members added to a stored Gram, or taken away: the bits of a fresh pass, and only the new rows multiplied."""

import numpy as np
import pytest

import heredity.measure as measure_module
from gram_oracle import adapt, adapted_family, check, family_of, same_bits
from heredity import Checkpoint, Gram
from heredity.errors import CheckpointError
from pico import PicoFamily, write_model

ALL = tuple("abcdefghij")


@pytest.fixture(scope="module")
def ten_files(tmp_path_factory):
    """A base and ten members: a tensor of several ranges, one of long rows, a vector, a scalar."""
    root = tmp_path_factory.mktemp("ten")
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (301, 117), "b.weight": (3, 9001), "c.weight": (2003,), "d.weight": ()}
    base = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    values = {"base": write_model(root / "base", base, dtype="BF16")}
    for i, m in enumerate(ALL):
        weights = {n: (w + 0.01 * rng.normal(size=w.shape)).astype(np.float32) for n, w in base.items()}
        values[m] = write_model(root / m, weights, dtype=("BF16", "F32", "F16")[i % 3], shards=1 + i % 2)
    return PicoFamily(root, {m: root / m for m in values}, values)


@pytest.fixture
def ten(ten_files, monkeypatch):
    monkeypatch.setattr(measure_module, "RANGE", 1 << 14)
    monkeypatch.setattr(measure_module, "PIECE", 1 << 12)
    return ten_files


@pytest.fixture
def passes(monkeypatch):
    """What each pass was asked for: (tensor, members known before), one for every range."""
    seen = []
    real = measure_module.measure_range

    def watch(models, job):
        seen.append((job.tensor.name, job.known))
        return real(models, job)

    monkeypatch.setattr(measure_module, "measure_range", watch)
    return seen


def forbidden(tensor, elements):
    raise AssertionError("weights were read")


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (ALL[:4], ALL[:5]),
        (ALL[:3], ALL[:4]),  # the new one shares a tile with known ones
        (ALL[:9], ALL),
        (("a", "c", "d", "f", "g", "i"), ("j", "a", "b", "c", "d", "e", "f", "g", "i")),  # anywhere, several
        (ALL[:8], (*ALL[1:4], "j", *ALL[5:7])),  # some leave as one comes
    ],
)
@pytest.mark.parametrize("elements", [False, True])
def test_added_members_have_the_bits_of_a_fresh_pass(ten, tmp_path, passes, first, then, elements):
    store = tmp_path / "g"
    family = family_of(ten)
    fresh = Gram.compute(family, members=then, elements=elements)
    Gram.compute(family, members=first, elements=elements, store=store)
    passes.clear()
    grown = Gram.compute(family, members=then, elements=elements, store=store, jobs=2)
    same_bits(fresh, grown)
    assert grown.members == fresh.members
    assert len(grown.elements) == len(fresh.elements) == (4 if elements else 0)
    for name in fresh.elements:
        assert np.array_equal(fresh.elements[name].unchanged, grown.elements[name].unchanged)
    known = len([m for m in then if m in first])
    assert {k for _, k in passes} == {known}
    same_bits(fresh, Gram.load(store))
    check(grown, ten, members=list(then), tolerance=1e-6)


def test_only_the_tiles_of_the_new_row_are_multiplied():
    from heredity.kernels.gram import CHUNK, add_gram

    rng = np.random.default_rng(0)
    values = rng.normal(size=(13, 100)).astype(np.float32)
    raw, codes = values.view(np.uint8), np.zeros(13, np.int64)
    whole, some = np.zeros((2, 16, 16))
    for first, products in ((0, whole), (12, some)):
        add_gram(
            raw, codes, 100, first, np.zeros((16, CHUNK), np.float32), products, np.zeros(16),
            np.zeros(16, np.uint32),
        )  # fmt: skip
    tiles = [(i, j) for i in range(0, 16, 4) for j in range(0, 16, 4) if some[i : i + 4, j : j + 4].any()]
    assert tiles == [(0, 0), (0, 12), (4, 4), (4, 12), (8, 8), (8, 12), (12, 12)]
    assert some[:13, 12].tobytes() == whole[:13, 12].tobytes()
    assert np.diagonal(some).tobytes() == np.diagonal(whole).tobytes()


def test_members_taken_away_need_no_weight(ten, tmp_path):
    store = tmp_path / "g"
    family = family_of(ten)
    whole = Gram.compute(family, elements=True, store=store)
    fewer = ("h", "a", "c")
    fresh = Gram.compute(family, members=fewer, elements=True)
    less = Gram.compute(family, members=fewer, elements=True, store=store, progress=forbidden)
    same_bits(fresh, less)
    assert (less.members, less.dtypes) == (fresh.members, fresh.dtypes)
    same_bits(whole, Gram.compute(family, elements=True, store=store, progress=forbidden))  # it is still kept


def test_a_changed_member_counts_as_new(ten_files, tmp_path, passes):
    rng = np.random.default_rng(1)
    values, paths = {}, {}
    for m in ("base", "a", "b", "c"):
        paths[m] = tmp_path / m
        values[m] = write_model(paths[m], {"w": rng.normal(size=(40, 50)).astype(np.float32)})
    pico = PicoFamily(tmp_path, paths, values)
    Gram.compute(family_of(pico), store=tmp_path / "g")
    values["b"] = write_model(paths["b"], {"w": rng.normal(size=(40, 50)).astype(np.float32)})
    passes.clear()
    again = Gram.compute(family_of(pico), store=tmp_path / "g")
    assert passes == [("w", 2)]
    same_bits(Gram.compute(family_of(pico)), again)
    values["base"] = write_model(paths["base"], {"w": rng.normal(size=(40, 50)).astype(np.float32)})
    passes.clear()
    same_bits(Gram.compute(family_of(pico), store=tmp_path / "g"), Gram.compute(family_of(pico)))
    assert {known for _, known in passes} == {0}


@pytest.mark.parametrize("who", ["a", "new"])
def test_numbers_too_small_for_float32_are_measured_anew(tmp_path, passes, who):
    rng = np.random.default_rng(0)
    base = rng.normal(size=5000).astype(np.float32)
    base[7] = 0
    for name in ("base", "a", "b", "new"):
        moved = base + 0.1 * rng.normal(size=5000).astype(np.float32)
        if name == who:
            moved = base.copy()
            moved[7] = 1e-12
        write_model(tmp_path / name, {"w": base if name == "base" else moved, "x": moved})
    models = {m: Checkpoint.open(tmp_path / m) for m in ("base", "a", "b", "new")}
    fresh = Gram.compute(models, reference="base", elements=True)
    first = {m: models[m] for m in ("base", "a", "b")}
    Gram.compute(first, reference="base", elements=True, store=tmp_path / "g")
    passes.clear()
    same_bits(fresh, Gram.compute(models, reference="base", elements=True, store=tmp_path / "g"))
    assert passes == [("w", 2), ("x", 2), ("w", 0)]


def test_nan_in_a_new_member_is_named_and_the_store_stays(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("base", "a", "b"):
        weights = {n: rng.normal(size=(30, 20)).astype(np.float32) for n in "wx"}
        if name == "b":
            weights["w"][3, 4] = np.nan
        write_model(tmp_path / name, weights)
    models = {m: Checkpoint.open(tmp_path / m) for m in ("base", "a", "b")}
    first = {m: models[m] for m in ("base", "a")}
    options = {"reference": "base", "nonfinite": "leave out"}
    one = Gram.compute(first, store=tmp_path / "g", **options)
    fresh = Gram.compute(models, **options)
    grown = Gram.compute(models, store=tmp_path / "g", **options)
    same_bits(fresh, grown)
    assert grown.left_out == fresh.left_out
    assert "1 of 600" in grown.left_out["w"]
    same_bits(one, Gram.compute(first, store=tmp_path / "g", **options))  # w comes back
    Gram.compute(first, reference="base", store=tmp_path / "strict")
    before = (tmp_path / "strict").read_bytes()
    with pytest.raises(CheckpointError, match=r"b/model.safetensors: tensor w: 1 of 600"):
        Gram.compute(models, reference="base", store=tmp_path / "strict")
    assert (tmp_path / "strict").read_bytes() == before


def test_a_tensor_that_only_a_former_member_lacked_is_measured(tmp_path, passes):
    rng = np.random.default_rng(0)
    for name in ("base", "a", "b", "c"):
        names = "w" if name == "b" else "wx"
        write_model(tmp_path / name, {n: rng.normal(size=(30, 20)).astype(np.float32) for n in names})
    models = {m: Checkpoint.open(tmp_path / m) for m in ("base", "a", "b", "c")}
    Gram.compute(models, reference="base", allow_partial=True, store=tmp_path / "g")
    passes.clear()
    rest = {m: models[m] for m in ("base", "a", "c")}
    less = Gram.compute(rest, reference="base", allow_partial=True, store=tmp_path / "g")
    assert [name for name, _ in passes] == ["x"]
    fresh = Gram.compute(rest, reference="base", allow_partial=True)
    same_bits(fresh, less)
    assert less.left_out == fresh.left_out == {}


def test_adapters_added_to_full_models(pico_family, tmp_path, passes):
    pico = pico_family(members=("a", "b"))
    adapt(pico, "one", seed=1)
    store = tmp_path / "g"
    Gram.compute(adapted_family(pico, {"one"}), elements=True, store=store)
    adapt(pico, "two", seed=2)
    passes.clear()
    grown = Gram.compute(adapted_family(pico, {"one", "two"}), elements=True, store=store)
    assert {known for _, known in passes} == {0, 3}
    same_bits(Gram.compute(adapted_family(pico, {"one", "two"}), elements=True), grown)
    check(grown, pico)
