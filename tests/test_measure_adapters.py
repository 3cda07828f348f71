"""Adapters in the streamed pass: trace formulas against dense products."""

import numpy as np
import pytest

from gram_oracle import adapt, adapted_family, check
from heredity import Gram


@pytest.mark.parametrize("elements", [False, True])
@pytest.mark.parametrize("full", [(), ("a", "b")])
def test_lora_equals_its_dense_product(pico_family, full, elements):
    pico = pico_family(members=full)
    norm = np.random.default_rng(9).normal(size=8).astype(np.float32)
    adapt(pico, "plain", seed=1)
    adapt(pico, "rs", seed=2, use_rslora=True, rank=3, alpha=6.0)
    adapt(pico, "patterned", seed=3, rank_pattern={"up_proj": 4}, alpha_pattern={"q_proj": 16.0})
    adapt(
        pico,
        "saved",
        seed=4,
        targets={"model.layers.1.mlp.down_proj": (8, 24)},
        saved={"model.norm.weight": norm},
    )
    gram = Gram.compute(adapted_family(pico, {"plain", "rs", "patterned", "saved"}), elements=elements)
    check(gram, pico)
    if elements:
        for name, counts in gram.elements.items():
            signs = np.sign(pico.deltas(name)[1:])
            assert np.array_equal(counts.unchanged, (signs == 0).sum(axis=1)), name


def test_fan_in_fan_out(pico_family):
    pico = pico_family(kind="gpt2", members=("a",))
    targets = {"transformer.h.0.attn.c_attn": (8, 24), "transformer.h.1.mlp.c_fc": (8, 32)}
    adapt(pico, "lora", seed=1, targets=targets, fan_in_fan_out=True)
    check(Gram.compute(adapted_family(pico, {"lora"})), pico)


def test_an_adapter_of_another_base_than_the_reference(pico_family):
    pico = pico_family()
    adapt(pico, "lora", seed=1)
    gram = Gram.compute(adapted_family(pico, {"lora"}), reference="a", members=["base", "lora", "b"])
    check(gram, pico, reference="a", members=["base", "lora", "b"])


@pytest.mark.parametrize("elements", [False, True])
def test_an_adapter_as_the_reference(pico_family, elements):
    pico = pico_family()
    adapt(pico, "lora", seed=1)
    adapt(pico, "other", seed=2)
    members = ["base", "other", "b"]
    family = adapted_family(pico, {"lora", "other"})
    check(Gram.compute(family, reference="lora", members=members, elements=elements), pico, "lora", members)


def test_a_changed_scale_is_noticed_though_the_factors_are_the_same(pico_family, tmp_path):
    import json

    pico = pico_family()
    adapt(pico, "lora", seed=1)
    first = Gram.compute(adapted_family(pico, {"lora"}), store=tmp_path / "g")
    file = pico.root / "lora" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "lora_alpha": 8.0}))
    second = Gram.compute(adapted_family(pico, {"lora"}), store=tmp_path / "g")
    name = "model.layers.0.mlp.up_proj.weight"
    assert np.isclose(second.tensors[name].products[4, 4], 4 * first.tensors[name].products[4, 4])
