"""Planted descent: fine-tunes, chains, siblings, linear merges, SLERP, TIES, copies; in fp32 and in bf16."""

import numpy as np
import pytest
from planted_weights import bf16, normal, plus, products, times

from heredity.geometry.ancestry import TURN, ancestry
from heredity.geometry.merges import allowance, fit
from heredity.geometry.rounding import noise, rounded

STEP = 0.01


def _found(base, members, dtype="F32", **options):
    inner, _, _ = products(base, list(members.values()))
    names = ["base", *members]
    entries = ancestry(inner, [dtype] * len(names), **options)
    return {names[e.model]: (e.kind, tuple(names[p] for p in e.parents), e) for e in entries}


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def base(rng):
    return [tensor.astype(np.float32).astype(np.float64) for tensor in normal(rng, 1.0)]


def _slerp(t, first, second):
    mixed = []
    for a, b in zip(first, second, strict=True):
        angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        mixed.append((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle))
    return mixed


def _ties(base, first, second):
    mixed = []
    for origin, a, b in zip(base, first, second, strict=True):
        steps = np.stack([a - origin, b - origin])
        steps[np.abs(steps) < np.quantile(np.abs(steps), 0.5, axis=1, keepdims=True)] = 0
        sign = np.sign(steps.sum(axis=0))
        steps *= np.sign(steps) == sign
        mixed.append(origin + steps.sum(axis=0) / np.maximum((steps != 0).sum(axis=0), 1))
    return mixed


def test_siblings_chains_and_copies(rng, base):
    data = normal(rng, 2 * STEP)
    a = plus(base, normal(rng, STEP))
    b = plus(base, data, normal(rng, STEP))
    twin = plus(base, data, normal(rng, STEP))  # same data, other seed
    longer = plus(base, times(2.0, data), normal(rng, STEP))  # same data, trained on for longer
    child = plus(a, normal(rng, STEP))
    grandchild = plus(child, normal(rng, STEP / 3))
    found = _found(
        base,
        {"grandchild": grandchild, "child": child, "a": a, "b": b, "twin": twin, "longer": longer, "copy": a},
    )
    assert found["base"][:2] == ("base", ())
    for name in ("a", "b", "twin", "longer"):
        assert found[name][:2] == ("finetune", ("base",)), name
        assert not found[name][2].null <= TURN, name
    assert found["child"][:2] == ("finetune", ("a",))
    assert found["grandchild"][:2] == ("finetune", ("child",))
    assert found["copy"][:2] == ("copy", ("a",))
    assert found["child"][2].score < 0.05 < found["child"][2].null


@pytest.mark.parametrize("weights", [(0.3, 0.7), (0.5, 0.5), (1.0, 1.0), (0.2, 0.2)])
def test_linear_merges_and_task_arithmetic(rng, base, weights):
    common = normal(rng, STEP / 2)
    a, b, c = (plus(base, common, normal(rng, STEP)) for _ in range(3))
    parts = [times(w, plus(m, times(-1.0, base))) for w, m in zip(weights, (a, b), strict=True)]
    found = _found(base, {"m": plus(base, *parts), "a": a, "b": b, "c": c})
    kind, parents, entry = found["m"]
    assert (kind, parents) == ("merge", ("a", "b"))
    np.testing.assert_allclose(entry.coefficients, weights, atol=1e-5)
    assert entry.residual < 1e-5
    assert entry.null > 0.5
    assert entry.uniform
    for name in "abc":
        assert found[name][:2] == ("finetune", ("base",))


def test_a_merge_of_ten_and_a_merge_trained_on(rng, base):
    members = {f"m{i}": plus(base, normal(rng, STEP)) for i in range(10)}
    soup = times(0.1, plus(*members.values()))
    found = _found(base, members | {"soup": soup, "tuned": plus(soup, normal(rng, STEP / 10))})
    assert found["soup"][:2] == ("merge", tuple(members))
    np.testing.assert_allclose(found["soup"][2].coefficients, 0.1, atol=1e-5)
    assert found["tuned"][:2] == ("finetune", ("soup",))


def test_trained_on_for_longer_on_the_same_data(rng, base):
    data = normal(rng, 2 * STEP)
    seeds = {f"s{i}": plus(base, data, normal(rng, STEP)) for i in range(3)}
    more = plus(seeds["s0"], times(0.25, data), normal(rng, STEP))
    found = _found(base, seeds | {"more": more, "longer": plus(base, times(1.5, data), normal(rng, STEP))})
    assert found["more"][:2] == ("finetune", ("s0",))
    for name in (*seeds, "longer"):
        assert found[name][:2] == ("finetune", ("base",)), name


def test_a_sibling_of_one_part_does_not_go_on_from_the_merge(rng, base):
    # Cosine 0.8 to one parent, as seeds of one data set have: the turn at the merge is small by accident.
    data = {name: normal(rng, STEP) for name in ("lua", "bible")}
    models = {
        f"{name}-{seed}": plus(base, step, normal(rng, STEP / 2))
        for name, step in data.items()
        for seed in range(2)
    }
    soup = plus(times(0.3, models["lua-0"]), times(0.7, models["bible-0"]))
    found = _found(base, models | {"soup": soup, "child": plus(soup, normal(rng, STEP / 3))})
    assert found["soup"][:2] == ("merge", ("lua-0", "bible-0"))
    assert found["child"][:2] == ("finetune", ("soup",))
    for name in models:
        assert found[name][:2] == ("finetune", ("base",)), name


def test_slerp_is_exact_tensor_by_tensor_only_and_its_parents_are_named(rng, base):
    # Far apart, and by another angle in every tensor, as after long training.
    steps = (0.2, 0.9, 0.4, 0.6)
    a, b = (
        [origin + rng.normal(0, step, len(origin)) for origin, step in zip(base, steps, strict=True)]
        for _ in range(2)
    )
    found = _found(base, {"a": a, "b": b, "s": _slerp(0.58, a, b)})
    kind, parents, entry = found["s"]
    assert (kind, parents) == ("merge", ("a", "b"))
    assert not entry.uniform
    assert entry.residual < 1e-5


def test_half_way_to_the_base(rng, base):
    a = plus(base, normal(rng, STEP))
    found = _found(base, {"a": a, "half": times(0.5, plus(base, a)), "b": plus(base, normal(rng, STEP))})
    assert found["half"][:2] == ("merge", ("base", "a"))
    np.testing.assert_allclose(found["half"][2].coefficients, (0.5, 0.5), atol=1e-5)
    assert found["a"][:2] == ("finetune", ("base",))


def test_ties_is_a_near_merge(rng, base):
    a, b = (plus(base, normal(rng, STEP)) for _ in range(2))
    strangers = {f"x{i}": plus(base, normal(rng, STEP)) for i in range(3)}
    kind, parents, entry = _found(base, {"a": a, "b": b, "t": _ties(base, a, b)} | strangers)["t"]
    assert (kind, parents) == ("near merge", ("a", "b"))
    assert 0.2 < entry.residual < 0.6


@pytest.mark.parametrize(("scale", "bias"), [(1e-3, 0.13), (3e-3, 0.06), (1e-2, 0.005)])
def test_bf16_bends_coefficients_names_the_parents_and_is_straightened(rng, scale, bias):
    base = bf16(normal(rng, 1.0))
    a, b = (bf16(plus(base, normal(rng, scale))) for _ in range(2))
    merged = bf16(plus(times(0.3, a), times(0.7, b)))
    kind, parents, entry = _found(base, {"a": a, "b": b, "m": merged}, dtype="BF16")["m"]
    assert (kind, parents) == ("merge", ("a", "b"))
    assert entry.coefficients[0] == pytest.approx(0.3, abs=bias + 0.02)
    assert abs(entry.coefficients[0] - 0.3) > bias / 3, "the trap is there"
    np.testing.assert_allclose(entry.before, (0.3, 0.7), atol=0.05)
    assert entry.precision[0] == pytest.approx(abs(entry.coefficients[0] - 0.3), abs=0.03)


def test_without_a_base_nothing_has_a_direction(rng, base):
    a, b = (plus(base, normal(rng, STEP)) for _ in range(2))
    child = plus(a, normal(rng, STEP))
    merged = plus(times(0.4, a), times(0.6, b))
    found = _found(base, {"a": a, "b": b, "child": child, "m": merged}, base_known=False)
    assert found["m"][:2] == ("merge", ("a", "b"))
    edges = [{name, *parents} for name, (kind, parents, _) in found.items() if kind == "kin" and parents]
    assert edges == [{"a", "base"}, {"b", "base"}, {"child", "a"}]
    assert not any(kind == "finetune" for kind, _, _ in found.values())


def test_independent_models_have_no_parent_but_the_base():
    for seed in range(25):
        rng = np.random.default_rng(seed)
        base = normal(rng, 1.0, (300, 500))
        shared = normal(rng, STEP, (300, 500))
        members = {
            f"m{i}": plus(base, times(0.5, shared), normal(rng, STEP * (1 + i), (300, 500))) for i in range(6)
        }
        found = _found(base, members)
        assert all(found[name][:2] == ("finetune", ("base",)) for name in members), seed


def test_closely_correlated_seeds_are_siblings_in_either_format(rng, base):
    for dtype, cast in (("F32", lambda w: w), ("BF16", bf16)):
        data = normal(rng, STEP)
        seeds = {f"s{i}": cast(plus(base, data, normal(rng, STEP / 2))) for i in range(4)}  # cosine 0.8
        others = {f"x{i}": cast(plus(base, normal(rng, STEP))) for i in range(3)}
        found = _found(cast(base), seeds | others, dtype=dtype)
        assert all(found[name][:2] == ("finetune", ("base",)) for name in [*seeds, *others]), dtype


def test_fit_of_nothing_is_none(rng, base):
    inner, _, _ = products(base, [base, plus(base, normal(rng, STEP))])
    assert fit(inner, 1, [2], "F32") is None  # did not move
    assert fit(inner, 2, [], "F32") is None
    assert fit(inner, 2, [1], "F32") is None


def test_rounding_agrees_with_the_bits_of_bfloat16(rng):
    values = normal(rng, 1.0, (1000,))
    np.testing.assert_array_equal(
        rounded(values[0].astype(np.float32).astype(np.float64), "BF16"), bf16(values)[0]
    )
    error = rounded(values[0], "BF16") - values[0]
    assert np.linalg.norm(error) / np.linalg.norm(values[0]) == pytest.approx(noise("BF16"), rel=0.1)
    assert noise("I64") == 0.0


def test_allowance_of_fp32_is_next_to_nothing(rng, base):
    a, b = (plus(base, normal(rng, STEP)) for _ in range(2))
    inner, _, _ = products(base, [a, b, plus(times(0.3, a), times(0.7, b))])
    found = fit(inner, 3, [1, 2], "F32")
    assert found is not None
    allowed = allowance(inner, 3, found, ["F32"] * 4)
    assert allowed.precision.max() <= 0.001
    assert allowed.residual == pytest.approx(2e-3)
