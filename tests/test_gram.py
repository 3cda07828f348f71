"""What follows from a Gram matrix: re-basing, centring, selecting, grouping; against the vectors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heredity.errors import ConfigError
from heredity.gram import Gram, TensorGram, grams_of

NAMES = (
    "model.embed_tokens.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.10.self_attn.q_proj.weight",
    "model.layers.2.input_layernorm.weight",
    "model.norm.weight",
)


def vectors(seed, k, size=40):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(k + 1, size + 7 * i)) for i, name in enumerate(NAMES)
    }  # [w_ref, w_1 … w_K]


def gram_of(weights, members, reference="ref"):
    tensors = {}
    for name, rows in weights.items():
        rows = np.concatenate([rows[:1], rows[1:] - rows[0]])
        tensors[name] = TensorGram(
            name=name,
            shape=rows.shape[1:],
            size=rows.shape[1],
            members=members,
            products=rows @ rows.T,
            sums=rows.sum(axis=1),
        )
    return grams_of(tensors, reference)


def close(a, b):
    for name in a.tensors:
        assert a.members == b.members == a.tensors[name].members
        assert np.allclose(a.tensors[name].products, b.tensors[name].products, atol=1e-9)
        assert np.allclose(a.tensors[name].sums, b.tensors[name].sums, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.data())
def test_rebase_is_the_gram_of_the_other_reference(seed, k, data):
    weights, members = vectors(seed, k), tuple(f"m{i}" for i in range(k))
    j = data.draw(st.integers(0, k - 1))
    order = list(range(k + 1))
    order[0], order[j + 1] = j + 1, 0
    swapped = {name: rows[order] for name, rows in weights.items()}
    names = list(members)
    names[j] = "ref"
    gram = gram_of(weights, members)
    rebased = gram.rebase(f"m{j}")
    assert rebased.reference == f"m{j}"
    close(rebased, gram_of(swapped, tuple(names), f"m{j}"))
    close(rebased.rebase("ref"), gram)
    assert gram.rebase("ref") is gram


def test_rebase_when_the_reference_is_a_member():
    weights = {name: np.concatenate([rows[:1], rows]) for name, rows in vectors(0, 3).items()}
    gram = gram_of(weights, ("a", "b", "c", "d"), "a")
    rebased = gram.rebase("c")
    assert rebased.members == ("a", "b", "c", "d")
    assert np.allclose(rebased.tensors[NAMES[0]].products[3], 0, atol=1e-9)
    close(rebased.rebase("a"), gram)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6))
def test_centre_is_the_gram_about_the_mean(seed, k):
    weights, members = vectors(seed, k), tuple(f"m{i}" for i in range(k))
    centred = gram_of(weights, members).centre()
    about = {
        name: np.concatenate([rows[1:].mean(axis=0, keepdims=True), rows[1:]])
        for name, rows in weights.items()
    }
    close(centred, gram_of(about, members, "centroid"))
    assert centred.reference == "centroid"
    assert np.allclose(centred.tensors[NAMES[0]].deltas.sum(axis=0), 0, atol=1e-9)


def test_independent_members_are_at_minus_one_over_k_less_one_after_centring():
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.zeros((1, 50_000)), rng.normal(size=(5, 50_000))])
    deltas = gram_of({NAMES[0]: rows}, tuple("abcde")).centre().tensors[NAMES[0]].deltas
    cosine = deltas / np.sqrt(np.outer(np.diag(deltas), np.diag(deltas)))
    assert np.allclose(cosine[np.triu_indices(5, 1)], -1 / 4, atol=0.02)


def test_raw_and_select_also_in_batches():
    weights = vectors(1, 3)
    gram = gram_of(weights, ("a", "b", "c"))
    for name, rows in weights.items():
        tensor = gram.tensors[name]
        assert np.allclose(tensor.raw(), rows @ rows.T, atol=1e-9)
        assert np.allclose(tensor.raw_sums(), rows.sum(axis=1), atol=1e-9)
        chosen = gram.select(["c", "a"]).tensors[name]
        assert np.allclose(chosen.raw(), rows[[0, 3, 1]] @ rows[[0, 3, 1]].T, atol=1e-9)
        assert chosen.members == ("c", "a")
    batch = TensorGram(name="w", shape=(2, 40), size=40, members=("a", "b", "c"),
                       products=np.stack([gram.tensors[n].products for n in NAMES[:2]]),
                       sums=np.stack([gram.tensors[n].sums for n in NAMES[:2]]))  # fmt: skip
    assert np.allclose(batch.raw()[1], gram.tensors[NAMES[1]].raw())


def test_totals_by_group():
    gram = gram_of(vectors(2, 3), ("a", "b", "c"))
    everything = sum(t.products for t in gram.tensors.values())
    assert np.allclose(gram.total()["all"].products, everything)
    assert list(gram.total("layer")) == ["layer 0", "layer 2", "layer 10", "outside"]
    assert list(gram.total("kind")) == ["attention q", "embedding", "mlp", "norm"]
    assert list(gram.total("tensor")) == sorted(NAMES)
    for by in ("layer", "kind", "tensor"):
        assert np.allclose(sum(t.products for t in gram.total(by).values()), everything)
        assert sum(t.size for t in gram.total(by).values()) == gram.total()["all"].size
    equal = gram.total(equal_weight=True)["all"]
    assert np.isclose(np.diagonal(equal.deltas).mean(), len(NAMES))
    assert gram.only(lambda name: "layers" in name).total()["all"].size < gram.total()["all"].size
    with pytest.raises(ConfigError, match="'colour'"):
        gram.total("colour")
    with pytest.raises(ConfigError, match="'z' is not in the Gram"):
        gram.select(["z"])


def test_small_differences_do_not_cancel(tmp_path):
    """Task vectors a millionth of the weights: the Gram of differences keeps them, a raw Gram would not."""
    from heredity import Checkpoint
    from pico import write_model

    rng = np.random.default_rng(0)
    base = rng.normal(size=30_000).astype(np.float32)
    rows = [base, *((base + 1e-6 * rng.normal(size=base.size)).astype(np.float32) for _ in range(2))]
    for name, row in zip("rab", rows, strict=True):
        write_model(tmp_path / name, {"w": row})
    found = Gram.compute({n: Checkpoint.open(tmp_path / n) for n in "rab"}, reference="r").tensors["w"].deltas
    exact = np.stack([r.astype(np.float64) - base for r in rows[1:]])
    assert np.allclose(found, exact @ exact.T, rtol=1e-6, atol=1e-6 * (exact[0] @ exact[0]))
