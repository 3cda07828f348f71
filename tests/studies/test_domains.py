"""The study of domains in tiny: families on disk that `heredity map` reads, and going on after a stop."""

import msgspec
import numpy as np
import pytest

from heredity.corpora.documents import CorpusSpec
from heredity.errors import HeredityError
from heredity.family import Family
from heredity.run import Run
from heredity.studies import domains


@pytest.fixture
def tiny(tmp_path):
    """Two domains of generated text and a model of a few thousand weights."""
    rng = np.random.default_rng(0)
    for domain, letters in (("sea", "abcdefghijklm"), ("sky", "nopqrstuvwxyz")):
        (tmp_path / domain).mkdir()
        for number in range(12):
            words = ("".join(rng.choice(list(letters), 5)) for _ in range(200))
            (tmp_path / domain / f"{number}.txt").write_text(" ".join(words))
    full = domains.preset()
    model = full.model | {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2,
                          "num_key_value_heads": 2}  # fmt: skip
    return msgspec.structs.replace(
        full, bases=2, seeds=1, vocabulary=300, context=32, base_domains=("sea",), base_tokens=1024,
        tokens=1024, evaluation_tokens=256, model=model,
        archives={}, kinds={},
        pretraining=msgspec.structs.replace(full.pretraining, batch_blocks=8, warmup_steps=1),
        finetuning=msgspec.structs.replace(full.finetuning, batch_blocks=8, warmup_steps=1),
        corpora=tuple(CorpusSpec(domain=name, source=f"text:{name}/*.txt") for name in ("sea", "sky")),
    )  # fmt: skip


def test_families_are_trained_described_and_resumed(tiny, tmp_path):
    def opened(resume):
        return Run.open(
            tmp_path / "run", command="domains", config=domains.plain(tiny), seed=0, resume=resume
        )

    trained = []

    def stops(text):
        trained.append(text)
        if text.startswith("sky-0:"):
            raise HeredityError("the power is cut")

    with pytest.raises(HeredityError, match="power"):
        domains.study(opened(False), tiny, root=tmp_path, say=stops)
    run = opened(True)
    first, second, both = domains.study(run, tiny, root=tmp_path, say=lambda _: None)
    family = Family.load(first)
    assert [member.name for member in family.members] == ["base-0", "sea-0", "sky-0"]
    assert family.base.name == "base-0"
    assert family.members[2].labels == {"domain": "sky", "kind": "sky", "base": 0, "seed": 0}
    assert [m.name for m in Family.load(second).members] == ["base-1", "sea-0-b1", "sky-0-b1"]
    assert Family.load(both).base is None
    assert len(family.checkpoint("sky-0").tensors) == len(family.checkpoint("base-0").tensors)
    losses = run.table("losses")
    assert losses["member"].to_list() == ["sea-0", "sky-0", "sea-0-b1", "sky-0-b1"]
    assert losses["loss"].is_finite().all()
    sky = losses.filter(domain="sky")
    assert (sky["loss"] < sky["loss_base"]).all(), "text the base never saw is learned"
    assert not list((tmp_path / "run").glob("work/*"))


def test_the_preset_is_the_study_of_the_docs():
    config = domains.preset()
    assert len(config.domains) >= 6
    assert config.seeds >= 3
    assert config.bases == 2
    assert set(config.kinds) == set(config.domains)
    assert set(config.base_domains) <= set(config.domains)
