import msgspec
import numpy as np
import polars as pl
import pytest
import torch
from planted import CONTEXT, stream
from transformers import MistralConfig, MistralForCausalLM

from heredity.corpora.tokens import TokenStream
from heredity.errors import ConfigError, DiskFullError, MismatchError, StoreError
from heredity.features import harvest as module
from heredity.features.harvest import harvest, harvest_sites
from heredity.features.store import ActivationStore

SITE = "model.layers.0.mlp.down_proj:input"
OUT = "model.layers.0.mlp:output"


def pico(seed=0):
    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=100, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, sliding_window=None,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model():
    return pico()


@pytest.fixture(scope="module")
def tokens():
    return stream(documents=2, contexts=3)


def oracle(model, tokens):
    seen = {}
    layer = model.model.layers[0].mlp
    handles = [
        layer.down_proj.register_forward_hook(lambda m, args, out: seen.update({"in": args[0]})),
        layer.register_forward_hook(lambda m, args, out: seen.update({"out": out})),
    ]
    with torch.no_grad():
        model(input_ids=torch.from_numpy(tokens.blocks().astype(np.int64)))
    for handle in handles:
        handle.remove()
    return {name: value.reshape(-1, value.shape[-1]).numpy() for name, value in seen.items()}


def test_several_sites_in_one_pass_equal_a_plain_hook(model, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHARD_TOKENS", 100)  # three contexts a shard
    want = oracle(model, tokens)
    stores = harvest_sites(
        model, tokens, {SITE: tmp_path / "a", OUT: tmp_path / "b"}, dtype="float32", batch_tokens=70
    )
    for site, name in ((SITE, "in"), (OUT, "out")):
        store = stores[site]
        assert len(store.shards) > 1
        np.testing.assert_allclose(store.read(0, store.n_tokens), want[name], atol=1e-6)
        rows = np.array([190, 3, 64, 65, 3])
        np.testing.assert_allclose(store.take(rows), want[name][rows], atol=1e-6)
        np.testing.assert_allclose(np.concatenate([x for _, x in store.batches(50)]), want[name], atol=1e-6)
    assert stores[SITE].d == 24
    assert stores[SITE].meta.stream_digest == tokens.digest


def test_half_precision_is_near(model, tokens, tmp_path):
    store = harvest(model, tokens, SITE, tmp_path / "half")
    np.testing.assert_allclose(store.read(0, 9999), oracle(model, tokens)["in"], rtol=1e-3, atol=1e-6)


def test_resumes_where_it_stopped_to_the_same_bytes(model, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHARD_TOKENS", 64)
    whole = harvest(model, tokens, SITE, tmp_path / "whole")
    calls = []

    def stop(n):
        calls.append(n)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest(model, tokens, SITE, tmp_path / "cut", batch_tokens=32, progress=stop)
    with pytest.raises(StoreError, match="no finished activation store"):
        ActivationStore.open(tmp_path / "cut")
    done = sorted(p.name for p in (tmp_path / "cut").glob("*.bin"))
    assert 0 < len(done) < whole.meta.n_shards
    before = {name: (tmp_path / "cut" / name).stat().st_mtime_ns for name in done}
    harvest(model, tokens, SITE, tmp_path / "cut", batch_tokens=32)
    for file in sorted((tmp_path / "whole").iterdir()):
        assert file.read_bytes() == (tmp_path / "cut" / file.name).read_bytes(), file.name
    assert before == {name: (tmp_path / "cut" / name).stat().st_mtime_ns for name in done}


def test_a_wrong_site_offers_the_nearest(model, tokens, tmp_path):
    with pytest.raises(ConfigError, match="down_prj") as error:
        harvest(model, tokens, "model.layers.0.mlp.down_prj:input", tmp_path / "x")
    assert "model.layers.0.mlp.down_proj" in error.value.hint
    with pytest.raises(ConfigError, match="MODULE:input"):
        harvest(model, tokens, "model.layers.0", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_bad_activations_are_named(tokens, tmp_path):
    broken = pico()
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(
        StoreError, match=r"lua, model\.layers\.0\.mlp\.down_proj:input: shard 0, step 0: .* not finite"
    ):
        harvest(broken, tokens, SITE, tmp_path / "x", member="lua")
    large = pico()
    with torch.no_grad():
        large.model.layers[0].mlp.up_proj.weight *= 1e8
    with pytest.raises(StoreError, match="too large for float16"):
        harvest(large, tokens, SITE, tmp_path / "y")


def test_stores_of_something_else_and_broken_ones_are_refused(model, tokens, tmp_path):
    store = harvest(model, tokens, SITE, tmp_path / "x")
    with pytest.raises(MismatchError, match="another model_digest"):
        harvest(pico(1), tokens, SITE, tmp_path / "x")
    with pytest.raises(MismatchError, match="another stream_digest"):
        harvest(model, stream(documents=2, contexts=3, seed=5), SITE, tmp_path / "x")
    shard = tmp_path / "x" / "activations-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StoreError, match="bytes, should be"):
        ActivationStore.open(tmp_path / "x")
    (tmp_path / "x" / "meta.json").write_text("{}")
    with pytest.raises(StoreError, match="not the record"):
        ActivationStore.open(tmp_path / "x")
    assert store.n_tokens == tokens.n_blocks * CONTEXT


def test_a_small_disk_is_found_before_starting(model, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: msgspec.defstruct("Usage", ["free"])(free=100))
    with pytest.raises(DiskFullError, match="needs"):
        harvest(model, tokens, SITE, tmp_path / "x")
    assert not list((tmp_path / "x").glob("*.bin"))


def test_a_stream_shorter_than_a_context_is_refused_before_anything_is_written(model, tokens, tmp_path):
    table = tokens.documents.head(1).with_columns(start=pl.lit(0), stop=pl.lit(CONTEXT - 1))
    short = TokenStream(
        tokens.tokens[: CONTEXT - 1], table, context=CONTEXT, domains=tokens.domains, tokenizer_sha256="none"
    )
    with pytest.raises(StoreError, match="shorter than one context"):
        harvest(model, short, SITE, tmp_path / "x")
    assert not (tmp_path / "x").exists()
