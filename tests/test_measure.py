"""The streamed Gram pass: exact against brute force, and the same bits however it is run."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import heredity.measure as measure_module
from gram_oracle import check, family_of, same_bits
from heredity import Checkpoint, Family, Gram
from heredity.errors import CheckpointError, ConfigError
from pico import (
    eight_bits,
    stored,
    write_file,
    write_model,
    write_raw,
)

DTYPES = ("F32", "BF16", "F16", "F8_E4M3", "F8_E5M2")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shards", [1, 3])
def test_exact_on_every_dtype_and_sharding(pico_family, kind, dtype, shards):
    pico = pico_family(
        kind=kind, dtype=dtype, shards=shards, relative=0.3 if dtype.startswith("F8") else 0.05
    )
    gram = Gram.compute(family_of(pico))
    assert not any("lm_head" in name or "classifier" in name for name in gram.tensors)
    check(gram, pico)
    check(Gram.compute(family_of(pico), include_head=True), pico)


def test_exact_on_mixed_dtypes(pico_family):
    pico = pico_family(
        dtype={"base": "F32", "a": "BF16", "b": "F16", "c": "F8_E4M3"},
        shards={"base": 1, "a": 2, "b": 3, "c": 1},
    )
    gram = Gram.compute(family_of(pico))
    check(gram, pico)
    assert gram.dtypes == {"base": "F32", "a": "BF16", "b": "F16", "c": "F8_E4M3"}


@pytest.fixture
def large(large_files, monkeypatch):
    monkeypatch.setattr(measure_module, "RANGE", 1 << 15)
    monkeypatch.setattr(measure_module, "PIECE", 1 << 12)
    return large_files


@pytest.fixture(scope="module")
def large_files(tmp_path_factory):
    """A tensor of several ranges and pieces that end unevenly, one of long rows, a vector, a scalar."""
    root = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    shapes = {
        "model.a.weight": (1001, 117),
        "model.b.weight": (3, 20001),
        "model.c.weight": (5003,),
        "model.d.weight": (),
    }
    base = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    members = {
        m: {n: (w + 0.01 * rng.normal(size=w.shape)).astype(np.float32) for n, w in base.items()}
        for m in "abcde"
    }
    layouts = {"one": 1, "two": 2}
    values = {}
    for layout, shards in layouts.items():
        for name, weights in {"base": base, **members}.items():
            values[name] = write_model(root / layout / name, weights, dtype="BF16", shards=shards)
    from pico import PicoFamily

    return {
        layout: PicoFamily(root / layout, {m: root / layout / m for m in values}, values)
        for layout in layouts
    }


def test_exact_over_ranges(large):
    check(Gram.compute(family_of(large["one"])), large["one"], tolerance=1e-7)


def test_same_bits_over_shards_and_jobs(large):
    one = Gram.compute(family_of(large["one"]), elements=True)
    same_bits(one, Gram.compute(family_of(large["two"]), elements=True, jobs=3))
    same_bits(one, Gram.compute(family_of(large["one"]), elements=True, jobs=2, max_memory=8 << 20))


def test_same_bits_in_processes(large, monkeypatch):
    from heredity.execute import Processes

    one = Gram.compute(family_of(large["one"]))
    monkeypatch.setattr(measure_module, "choose", lambda jobs, ray: Processes(1))
    same_bits(one, Gram.compute(family_of(large["two"])))


@pytest.mark.ray
@pytest.mark.filterwarnings("default")  # Ray warns about itself
def test_same_bits_on_ray(large):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'heredity[ray]'")
    one = Gram.compute(family_of(large["one"]), elements=True)
    try:
        same_bits(one, Gram.compute(family_of(large["two"]), jobs=2, ray="local", elements=True))
    finally:
        ray.shutdown()


def test_close_over_block_sizes_and_member_order(large, monkeypatch):
    one = Gram.compute(family_of(large["one"]))
    shuffled = Gram.compute(family_of(large["one"]), members=["d", "b", "e", "a", "c"]).select(list("abcde"))
    same_bits(one, shuffled)  # every pair goes through the same instructions, so order changes nothing at all
    monkeypatch.setattr(measure_module, "PIECE", 3000)
    monkeypatch.setattr(measure_module, "RANGE", 1 << 20)
    other = Gram.compute(family_of(large["one"]))
    for name in one.tensors:
        norms = np.maximum(np.sqrt(np.diag(one.tensors[name].products)), 1e-30)
        error = np.abs(one.tensors[name].products - other.tensors[name].products) / np.outer(norms, norms)
        assert error.max() < 1e-6


def test_resume_gives_the_same_bits(large, tmp_path, monkeypatch):
    one = Gram.compute(family_of(large["one"]), elements=True)
    store = tmp_path / "family.gram"
    seen = []

    def stop_late(tensor, elements):
        seen.append(tensor)
        if tensor == "model.b.weight":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Gram.compute(family_of(large["one"]), elements=True, store=store, progress=stop_late)
    assert not store.exists()
    journal = tmp_path / ".family.gram.journal"
    journal.write_bytes(journal.read_bytes() + b'{"name": "model.b.weight", "cut sho')
    again = []
    resumed = Gram.compute(
        family_of(large["one"]), elements=True, store=store, progress=lambda t, n: again.append(t)
    )
    assert "model.a.weight" not in again
    assert "model.b.weight" in again
    same_bits(one, resumed)
    assert not journal.exists()
    same_bits(one, Gram.load(store))


def test_a_kept_gram_is_used_until_an_input_changes(pico_family, tmp_path):
    pico = pico_family()
    store = tmp_path / "g"
    one = Gram.compute(family_of(pico), store=store)

    def forbidden(tensor, elements):
        raise AssertionError("measured again")

    same_bits(one, Gram.compute(family_of(pico), store=store, progress=forbidden))
    some = Gram.compute(family_of(pico), members=["c", "a"], store=store, progress=forbidden)
    same_bits(one.select(["c", "a"]), some)
    weights = {n: w.astype(np.float32) for n, w in pico.values["b"].items()}
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    pico.values["b"] = write_model(pico.paths["b"], weights)
    changed = Gram.compute(family_of(pico), store=store)
    check(changed, pico)
    assert not np.array_equal(
        one.tensors["model.norm.weight"].products, changed.tensors["model.norm.weight"].products
    )


def test_touched_but_equal_files_are_recognised_by_hash(pico_family, tmp_path):
    from heredity.digests import digest_of

    pico = pico_family()
    for path in pico.paths.values():
        digest_of(path / "model.safetensors")
    Gram.compute(family_of(pico), store=tmp_path / "g")
    file = pico.paths["a"] / "model.safetensors"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    digest_of(file)
    measured = []
    Gram.compute(family_of(pico), store=tmp_path / "g", progress=lambda t, n: measured.append(t))
    assert measured == []


def test_identical_negated_and_scaled_members(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.integers(-8, 8, size=(100, 300)).astype(np.float32)  # whole numbers: differences are exact
    delta = rng.integers(-4, 4, size=(100, 300)).astype(np.float32)
    models = {
        "base": base,
        "a": base + delta,
        "twin": base + delta,
        "not": base - delta,
        "twice": base + 2 * delta,
        "same": base,
    }
    for name, w in models.items():
        write_model(tmp_path / name, {"w": w})
    gram = Gram.compute(Family.of({m: tmp_path / m for m in models}, base="base"), elements=True)
    g = gram.tensors["w"].products
    a, twin, minus, twice, same = range(1, 6)
    assert g[a, a] == g[a, twin] == g[twin, twin] == -g[a, minus] == g[minus, minus]
    assert g[a, twice] == 2 * g[a, a]
    assert g[twice, twice] == 4 * g[a, a]
    assert (g[same] == 0).all()
    assert np.array_equal(g[a], g[twin])
    counts = gram.elements["w"]
    changed = int(np.count_nonzero(delta))
    assert counts.unchanged.tolist() == [delta.size - changed] * 4 + [delta.size]
    assert counts.agree[0].tolist() == [changed, changed, 0, changed, 0]
    assert counts.both[0].tolist() == [changed, changed, changed, changed, 0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.sampled_from(DTYPES), st.integers(1, 9), st.integers(1, 3000))
def test_element_counts(tmp_path, seed, dtype, k, size):
    rng = np.random.default_rng(seed)
    values = eight_bits("F8_E4M3")[rng.integers(0, 0x60, size=(k + 1, size))] * rng.choice(
        [-1, 1], size=(k + 1, size)
    )
    values[rng.random((k + 1, size)) < 0.3] = 0.5
    checkpoints = {}
    for i, row in enumerate(values):
        write_file(tmp_path / f"{i}.safetensors", {"w": row.astype(np.float32)}, dtype)
        checkpoints[str(i)] = Checkpoint.open(tmp_path / f"{i}.safetensors")
    held = np.stack([stored(row, dtype) for row in values])
    gram = Gram.compute(checkpoints, reference="0", elements=True)
    signs = np.sign(held[1:] - held[0])
    counts = gram.elements["w"]
    assert np.array_equal(counts.unchanged, (signs == 0).sum(axis=1))
    both = (signs != 0).astype(int)
    assert np.array_equal(counts.both, both @ both.T)
    same = [[int(((a == b) & (a != 0)).sum()) for b in signs] for a in signs]
    assert np.array_equal(counts.agree, same)


@pytest.mark.parametrize("scale", [1e-25, 1e-18, 1e18, 1e30])
def test_weights_far_from_one(tmp_path, scale):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 5000)) * scale
    for name, row in zip("rab", rows, strict=True):
        write_model(tmp_path / name, {"w": row.astype(np.float32)})
    gram = Gram.compute({n: Checkpoint.open(tmp_path / n) for n in "rab"}, reference="r")
    held = rows.astype(np.float32).astype(np.float64)
    held[1:] -= held[0]
    exact = held @ held.T
    assert np.allclose(
        gram.tensors["w"].products, exact, rtol=1e-6, atol=1e-6 * np.sqrt(exact[0, 0] * exact[1, 1])
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("who", ["base", "b"])
def test_nan_and_infinity_are_named(pico_family, bad, who, tmp_path):
    pico = pico_family(dtype="BF16")
    weights = {n: w.astype(np.float32) for n, w in pico.values[who].items()}
    weights["model.layers.1.mlp.up_proj.weight"][2, 3] = bad
    write_model(pico.paths[who], weights, dtype="BF16")
    with pytest.raises(
        CheckpointError, match=rf"{who}.*model.layers.1.mlp.up_proj.weight: 1 of 192 elements"
    ):
        Gram.compute(family_of(pico), store=tmp_path / "g")
    assert not (tmp_path / "g").exists()
    gram = Gram.compute(family_of(pico), nonfinite="leave out")
    assert "model.layers.1.mlp.up_proj.weight" not in gram.tensors
    assert "1 of 192" in gram.left_out["model.layers.1.mlp.up_proj.weight"]


def test_an_unreadable_file_in_the_middle_leaves_nothing_half_written(large, tmp_path):
    for name, path in large["one"].paths.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    family = Family.of({m: tmp_path / m for m in large["one"].paths}, base="base")
    family.checkpoints()

    def cut(tensor, elements):
        file = tmp_path / "c" / "model.safetensors"
        with file.open("r+b") as f:
            f.truncate(file.stat().st_size - 2000)

    with pytest.raises(CheckpointError, match=r"c/model.safetensors: ends inside tensor"):
        Gram.compute(family, store=tmp_path / "g", progress=cut)
    assert not (tmp_path / "g").exists()
    with pytest.raises(CheckpointError, match="truncated"):
        Gram.compute(
            Family.of({m: tmp_path / m for m in large["one"].paths}, base="base"), store=tmp_path / "g"
        )


def test_a_file_that_changes_meanwhile_is_noticed(pico_family, tmp_path):
    pico = pico_family()
    family = family_of(pico)
    family.checkpoints()
    seen = []

    def touch(tensor, elements):
        if not seen:
            file = pico.paths["a"] / "model.safetensors"
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(bytes(content))
        seen.append(tensor)

    with pytest.raises(CheckpointError, match="changed while it was measured"):
        Gram.compute(family, store=tmp_path / "g", progress=touch)


def test_a_damaged_stored_gram_is_refused(pico_family, tmp_path):
    write_raw(tmp_path / "g", {"__metadata__": {"heredity_gram": "[]"}}, b"")
    with pytest.raises(CheckpointError, match="not a Gram"):
        Gram.load(tmp_path / "g")


def test_roles(pico_family):
    pico = pico_family()
    loose = Family.of(pico.paths)
    gram = Gram.compute(loose)  # no base is known: the first member is the reference and a member too
    assert gram.reference == "base"
    assert gram.members == ("base", "a", "b", "c")
    assert (gram.tensors["model.norm.weight"].products[1] == 0).all()
    with pytest.raises(ConfigError, match="no member is named 'z'"):
        Gram.compute(loose, reference="z")
    with pytest.raises(ConfigError, match="at least one member"):
        Gram.compute(Family.of({"base": pico.paths["base"]}, base="base"))
    with pytest.raises(ConfigError, match="--max-memory"):
        Gram.compute(loose, max_memory=1000)
