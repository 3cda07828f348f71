"""Families proposed from folders: cards, configurations, adapters, weights; what `inspect` says."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from heredity import Family
from heredity.cli._main import run
from heredity.errors import CheckpointError, ConfigError
from heredity.inspection import describe
from heredity.propose import family_of, filled_from_weights, propose
from pico import config, write_adapter, write_model, write_tokenizer


@pytest.fixture
def pico(pico_family):
    family = pico_family(dtype="BF16", members=("a", "b", "c"), relative=0.2)
    (family.paths["a"] / "README.md").write_text("---\nbase_model: org/Base\nlicense: mit\n---\n# a\n")
    (family.paths["b"] / "config.json").write_text(
        json.dumps({**config("llama"), "_name_or_path": "../base"})
    )
    write_adapter(
        family.root / "lora", {"model.layers.0.mlp.up_proj": (24, 8)}, base_model_name_or_path="org/base"
    )
    mean = {
        n: ((family.values["a"][n] + family.values["b"][n]) / 2).astype(np.float32)
        for n in family.values["a"]
    }
    write_model(family.root / "mix", mean, config=config("llama"))
    (family.root / "mix" / "README.md").write_text(
        "---\nbase_model: [a, b, org/far]\nbase_model_relation: merge\n---\n"
    )
    return family


def test_cards_configurations_and_adapters_name_parents(pico):
    found = {
        p.member.name: p for p in propose([pico.root / n for n in ("base", "a", "b", "c", "lora", "mix")])
    }
    assert (found["a"].member.parents, found["a"].evidence) == (("base",), "card")
    assert (found["b"].member.parents, found["b"].evidence) == (("base",), "config")
    assert (found["lora"].member.relation, found["lora"].evidence) == ("adapter", "adapter")
    assert (found["mix"].member.parents, found["mix"].member.relation) == (("a", "b"), "merge")
    assert found["mix"].unknown == ("org/far",)
    assert found["c"].evidence == ""
    family = family_of(list(found.values()), "f")
    assert family.base.name == "base"
    assert family.member("c").relation == "finetune"


def test_weights_name_what_nothing_else_does(pico):
    (pico.root / "mix" / "README.md").unlink()
    found = propose([pico.root / n for n in ("base", "a", "b", "c", "mix")], base="base")
    filled = {p.member.name: p.member for p in filled_from_weights(found, family_of(found, "f"))}
    assert filled["c"].parents == ("base",)
    assert filled["mix"].parents == ("a", "b")
    assert filled["mix"].relation == "merge"
    with pytest.raises(ConfigError, match="no base is known"):
        filled_from_weights(found, Family.of(pico.paths))


def test_names_collide_and_folders_are_missing(pico, tmp_path):
    write_model(tmp_path / "x" / "a", {"w": np.zeros(3, np.float32)})
    write_model(tmp_path / "y" / "a", {"w": np.zeros(3, np.float32)})
    assert [p.member.name for p in propose([tmp_path / "x" / "a", tmp_path / "y" / "a"])] == ["x-a", "y-a"]
    with pytest.raises(ConfigError, match="not a folder"):
        propose([tmp_path / "none"])
    with pytest.raises(ConfigError, match="base 'z' is none of the folders"):
        propose([tmp_path / "x" / "a"], base="z")
    with pytest.raises(ConfigError, match="second folder"):
        propose([tmp_path / "x" / "a", tmp_path / "x" / "a"])


def test_family_command(pico, tmp_path, capsys):
    out = tmp_path / "f" / "family.toml"
    folders = [str(pico.root / n) for n in ("base", "a", "b", "c", "lora", "mix")]
    assert run(["family", *folders, "-o", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["schema"] == 1
    assert {m["name"]: m["parents"] for m in printed["members"]}["mix"] == ["a", "b"]
    family = Family.load(out)
    assert family.checkpoint("lora").read("model.norm.weight").shape == (8,)
    assert run(["family", *folders, "-o", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_family_command_shows_what_is_not_shared(pico, capsys):
    weights = {n: w.astype(np.float32) for n, w in pico.values["c"].items() if n != "model.norm.weight"}
    write_model(pico.paths["c"], weights)
    assert run(["family", *(str(pico.paths[n]) for n in ("base", "a", "c")), "--no-weights"]) == 0
    assert "coverage: model.norm.weight in c: missing" in capsys.readouterr().out
    assert run(["family", *(str(pico.paths[n]) for n in ("base", "a", "c"))]) == 3


def test_inspect_command(pico, capsys):
    assert run(["inspect", str(pico.paths["a"]), str(pico.root / "lora"), "--hash", "--json"]) == 0
    model, adapter = json.loads(capsys.readouterr().out)["checkpoints"]
    assert model["architecture"] == "LlamaForCausalLM"
    assert model["parents"] == ["org/Base"]
    assert model["dtypes"] == {"BF16": sum(w.size for w in pico.values["a"].values())}
    assert len(model["files"][0]["sha256"]) == 64
    assert adapter["kind"] == "adapter"
    assert adapter["parents"] == ["org/base"]
    assert run(["inspect", str(pico.paths["a"]), "--tensors"]) == 0
    shown = capsys.readouterr().out
    assert "model.norm.weight  BF16 [8]" in shown
    assert "from org/Base" in shown
    assert run(["inspect", str(pico.root / "nothing"), "--offline"]) == 1


def test_a_remote_checkpoint_is_described_from_its_headers(monkeypatch):
    import huggingface_hub

    info = SimpleNamespace(dtype="BF16", shape=[3, 4])
    metadata = SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors={"w": info})})
    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", lambda repo, revision: metadata)
    found = describe("org/model@v1")
    assert (found["kind"], found["bytes"], found["tensors"]) == ("remote", 24, {"w": ("BF16", (3, 4))})
    with pytest.raises(CheckpointError, match="not in the Hub cache"):
        describe("org/model@v1", offline=True)


def test_unreadable_cards_and_vocabularies(pico):
    (pico.paths["a"] / "README.md").write_text("---\nbase_model: [a\n---\n")
    with pytest.raises(CheckpointError, match=r"README.md: the front matter is not YAML"):
        propose([pico.paths["a"]])
    from heredity import Checkpoint
    from heredity.vocabulary import vocabulary

    assert vocabulary(Checkpoint.open(pico.paths["b"])) is None
    write_tokenizer(pico.paths["b"], ["x", "y"])
    assert vocabulary(Checkpoint.open(pico.paths["b"])) == {"x": 0, "y": 1}
    (pico.paths["b"] / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read as a vocabulary"):
        vocabulary(Checkpoint.open(pico.paths["b"]))


def test_the_base_that_is_given_stays_one_where_no_card_names_parents(pico):
    folders = [pico.paths[name] for name in ("base", "a", "b")]
    family = family_of(propose(folders, base="base"), "f")
    assert family.base is not None
    assert family.base.name == "base"
    assert [member.relation for member in family.members if member.name != "base"] == ["finetune"] * 2
