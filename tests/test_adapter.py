"""LoRA folders: the model they make equals base + dense product; what is not LoRA is refused by name."""

import json
import pickle

import numpy as np
import pytest

from heredity import Checkpoint
from heredity.adapter import AdaptedCheckpoint, open_adapter
from heredity.errors import CheckpointError, MismatchError
from pico import write_adapter, write_file, write_model

W = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
E = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32)


@pytest.fixture
def base(tmp_path):
    write_model(
        tmp_path / "base",
        {"model.x.up_proj.weight": W, "model.embed_tokens.weight": E, "model.norm.weight": W[0]},
    )
    return Checkpoint.open(tmp_path / "base")


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
@pytest.mark.parametrize("rslora", [False, True])
def test_blocks_are_the_base_plus_the_dense_product(tmp_path, base, prefix, rslora):
    targets = {"model.x.up_proj": (12, 8), "model.embed_tokens": (20, 8)}
    dense = write_adapter(tmp_path / "lora", targets, rank=3, alpha=5.0, prefix=prefix, use_rslora=rslora)
    adapted = Checkpoint.open(tmp_path / "lora", base=base)
    assert isinstance(adapted, AdaptedCheckpoint)
    for name, stored in (("model.x.up_proj.weight", W), ("model.embed_tokens.weight", E)):
        exact = stored + dense[name]
        assert np.allclose(adapted.read(name), exact, atol=1e-5)
        assert np.allclose(adapted.block(name, 5, 61), exact.ravel()[5:61], atol=1e-5)
        assert adapted.low_rank(name).shape == stored.shape
    assert np.array_equal(adapted.read("model.norm.weight"), W[0])
    again = pickle.loads(pickle.dumps(adapted))
    assert np.array_equal(again.read("model.x.up_proj.weight"), adapted.read("model.x.up_proj.weight"))
    renamed = adapted.renamed({"y.weight": "model.x.up_proj.weight"})
    assert np.array_equal(renamed.read("y.weight"), adapted.read("model.x.up_proj.weight"))
    assert renamed.files == adapted.files or set(renamed.files) <= set(adapted.files)


def test_the_base_is_found_by_the_adapter_s_own_configuration(tmp_path, base):
    write_adapter(tmp_path / "lora", {"model.x.up_proj": (12, 8)}, base_model_name_or_path=str(base.path))
    assert Checkpoint.open(tmp_path / "lora").base.path == base.path
    edit(tmp_path / "lora", base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match="names no base"):
        Checkpoint.open(tmp_path / "lora")


def test_modules_to_save_replace_the_base_s(tmp_path, base):
    norm = np.full(8, 7, np.float32)
    for spelling in (
        "model.norm.weight",
        "model.norm.modules_to_save.weight",
        "model.norm.modules_to_save.default.weight",
    ):
        write_adapter(tmp_path / "lora", {"model.x.up_proj": (12, 8)}, saved={spelling: norm})
        assert np.array_equal(open_adapter(tmp_path / "lora", base=base).read("model.norm.weight"), norm)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "'IA3', not LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"r": 4}, "rank 2 in the file, 4 in"),
        ({"rank_pattern": {"up_proj": 3}}, "rank 2 in the file, 3 in"),
        ({"fan_in_fan_out": True}, r"adapts shape \[8, 12\].*is \[12, 8\]"),
    ],
)
def test_other_adapters_are_refused_by_name(tmp_path, base, changes, message):
    write_adapter(tmp_path / "lora", {"model.x.up_proj": (12, 8)})
    edit(tmp_path / "lora", **changes)
    with pytest.raises((CheckpointError, MismatchError), match=message):
        open_adapter(tmp_path / "lora", base=base)


def test_adapters_of_another_base(tmp_path, base):
    write_adapter(tmp_path / "a", {"model.y.up_proj": (12, 8)})
    with pytest.raises(MismatchError, match=r"changes model.y.up_proj.weight, which .*base does not have"):
        open_adapter(tmp_path / "a", base=base)
    write_adapter(tmp_path / "b", {"model.x.up_proj": (12, 9)})
    with pytest.raises(MismatchError, match=r"\[12, 9\].*\[12, 8\]"):
        open_adapter(tmp_path / "b", base=base)
    write_adapter(
        tmp_path / "c", {"model.x.up_proj": (12, 8)}, saved={"model.norm.weight": np.zeros(9, np.float32)}
    )
    with pytest.raises(MismatchError, match=r"is \[9\], \[8\] in"):
        open_adapter(tmp_path / "c", base=base)


def test_half_a_factor_and_pickles(tmp_path, base):
    write_adapter(tmp_path / "lora", {"model.x.up_proj": (12, 8)})
    write_file(
        tmp_path / "lora" / "adapter_model.safetensors",
        {"base_model.model.model.x.up_proj.lora_A.weight": W[:2]},
    )
    with pytest.raises(CheckpointError, match="only factor A"):
        open_adapter(tmp_path / "lora", base=base)
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    (tmp_path / "lora" / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors"):
        open_adapter(tmp_path / "lora", base=base)


def test_adapters_without_the_whole_model_s_prefix(tmp_path, base):
    dense = write_adapter(tmp_path / "lora", {"x.up_proj": (12, 8)})
    adapted = open_adapter(tmp_path / "lora", base=base)
    assert np.allclose(adapted.read("model.x.up_proj.weight"), W + dense["x.up_proj.weight"], atol=1e-5)
