"""Sites of pico models of several kinds: what is listed can be read, and is as wide as it says."""

import json

import numpy as np
import pytest
import torch
from planted import CONTEXT, stream
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from heredity.errors import CheckpointError, ConfigError, MismatchError
from heredity.features import sites as module
from heredity.features.evaluate import no_loss, quality
from heredity.features.feed import Feed, ends_of
from heredity.features.harvest import harvest, harvest_sites
from heredity.features.sae import SAE, TopK
from heredity.features.site import Site, reading
from heredity.features.sites import places, recommended
from heredity.models.architecture import kind_of, open_model, predicts_text, skeleton

SMALL = {
    "vocab_size": 120,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
MADE = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=None)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=120, n_embd=16, n_layer=2, n_head=2, n_inner=24)),
    "bert": lambda: BertModel(BertConfig(**SMALL)),
    "t5": lambda: T5ForConditionalGeneration(T5Config(
        vocab_size=120, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2
    )),
}  # fmt: skip
KINDS = {"mistral": "decoder", "gpt2": "decoder", "bert": "encoder", "t5": "encoder-decoder"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, make in MADE.items():
        torch.manual_seed(0)
        make().save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("name", MADE)
def test_every_site_listed_can_be_read_and_is_as_wide_as_it_says(saved, name):
    found = places(skeleton(saved / name))
    model = open_model(saved / name)
    assert kind_of(model.config) == KINDS[name]
    assert predicts_text(model) == (no_loss(model) is None) == (KINDS[name] == "decoder")
    widths = {
        Site.parse(s): w
        for p in found
        for s, w in zip(p.sites, filter(None, (p.input, p.output)), strict=True)
    }
    blocks = torch.randint(0, 100, (2, 5))
    feed = Feed(model)
    with reading(model, list(widths)) as seen:
        feed.run(blocks)
    assert len(widths) > 20
    for site, width in widths.items():
        assert feed.rows(seen[site], 2, 5, site).shape == (10, width), site


@pytest.mark.parametrize("name", MADE)
def test_the_insides_of_every_mlp_are_marked(saved, name):
    marked = [place for place in places(skeleton(saved / name)) if place.mlp]
    assert len(marked) == (4 if name == "t5" else 2)
    assert {place.input for place in marked} == {24}
    assert {place.layer for place in marked} == {0, 1}
    assert recommended(marked) == f"{marked[(len(marked) - 1) // 2].module}:input"
    with pytest.raises(ConfigError, match="no module is known to end an MLP"):
        recommended([place for place in places(skeleton(saved / name)) if not place.mlp])


def test_where_the_pass_needs_values_the_weights_tell_the_widths(saved, monkeypatch):
    whole = {p.module: (p.input, p.output) for p in places(skeleton(saved / "gpt2"))}
    monkeypatch.setattr(module, "_passed", lambda model: None)
    stated = {p.module: (p.input, p.output) for p in places(skeleton(saved / "gpt2"))}
    assert len(stated) > 10
    assert {m: whole[m] for m in stated if m != "transformer.wpe"} == {
        m: s for m, s in stated.items() if m != "transformer.wpe"
    }
    assert [p.module for p in places(skeleton(saved / "gpt2")) if p.mlp] == [
        "transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj",
    ]  # fmt: skip


def test_an_encoder_is_harvested_between_its_ends(saved, tmp_path):
    tokens, model = stream(documents=2, contexts=3), open_model(saved / "bert")
    site = "encoder.layer.0.output.dense:input"
    store = harvest(model, tokens, site, tmp_path / "x", dtype="float32", ends=(101, 102))
    blocks = torch.from_numpy(tokens.blocks().astype(np.int64))
    ends = [torch.full((len(blocks), 1), end) for end in (101, 102)]
    with torch.no_grad(), reading(model, [Site.parse(site)]) as seen:
        model(input_ids=torch.cat([ends[0], blocks, ends[1]], 1))
    want = seen[Site.parse(site)][:, 1:-1].reshape(-1, 24).numpy()
    np.testing.assert_allclose(store.read(0, store.n_tokens), want, atol=1e-6)
    assert store.meta.ends == (101, 102)
    with pytest.raises(MismatchError, match="another ends"):
        harvest(model, tokens, site, tmp_path / "x", dtype="float32")


def test_both_sides_of_an_encoder_decoder_are_harvested_in_one_pass(saved, tmp_path):
    tokens, model = stream(documents=2, contexts=3), open_model(saved / "t5")
    sites = [
        f"{side}.block.1.layer.{n}.DenseReluDense.wo:input" for side, n in (("encoder", 1), ("decoder", 2))
    ]
    stores = harvest_sites(model, tokens, {s: tmp_path / s[:7] for s in sites}, dtype="float32")
    rows = [stores[site].read(0, 99999) for site in sites]
    assert rows[0].shape == rows[1].shape == (tokens.n_tokens, 24)
    assert np.abs(rows[0] - rows[1]).max() > 0.01


def test_a_classifier_has_the_sites_of_its_encoder(saved, tmp_path):
    torch.manual_seed(1)
    BertForSequenceClassification(BertConfig(**SMALL)).save_pretrained(tmp_path / "head")
    tokens, model = stream(documents=2, contexts=2), open_model(tmp_path / "head")
    plain = harvest(model, tokens, "encoder.layer.0.output.dense:input", tmp_path / "a")
    whole = harvest(model, tokens, "bert.encoder.layer.0.output.dense:input", tmp_path / "b")
    np.testing.assert_array_equal(plain.read(0, 9999), whole.read(0, 9999))


def test_an_encoder_saved_without_its_pooler_is_read_all_the_same(saved, tmp_path):
    torch.manual_seed(1)
    model = BertModel(BertConfig(**SMALL))
    bare = {name: value for name, value in model.state_dict().items() if not name.startswith("pooler")}
    model.save_pretrained(tmp_path / "bare", state_dict=dict(bare))
    again = open_model(tmp_path / "bare")
    assert not again.pooler.dense.weight.any()
    blocks = torch.randint(0, 100, (2, 5))
    with torch.no_grad():
        want = model.eval()(input_ids=blocks).last_hidden_state
        torch.testing.assert_close(again(input_ids=blocks).last_hidden_state, want)
    del bare["embeddings.word_embeddings.weight"]
    model.save_pretrained(tmp_path / "broken", state_dict=bare)
    with pytest.raises(MismatchError, match="1 tensors do not fit"):
        open_model(tmp_path / "broken")


def test_an_encoder_has_no_loss_and_its_fvu_is_that_of_the_stored_activations(saved, tmp_path):
    tokens, model = stream(documents=2, contexts=3), open_model(saved / "bert")
    site = "encoder.layer.0.output.dense:input"
    store = harvest(model, tokens, site, tmp_path / "x", dtype="float32", ends=(101, 102))
    torch.manual_seed(0)
    sae = SAE(variant=TopK(d_sae=60, k=5), W_enc=torch.randn(24, 60), W_dec=torch.randn(60, 24), b_enc=torch.zeros(60),
              b_dec=torch.zeros(24))  # fmt: skip
    got = quality(sae, model, tokens, site, ends=(101, 102))
    x = store.read(0, store.n_tokens).astype(np.float64)
    again = sae.expand(sae.codes(x.astype(np.float32)))
    want = np.square(x - again).sum() / np.square(x - x.mean(0)).sum()
    assert got.fvu == pytest.approx(want, rel=1e-4)
    assert got.ce_recovered is None
    assert got.ce_clean is None
    assert got.l0 <= 5


def test_a_stream_that_is_not_the_models_is_refused(saved, tmp_path):
    model = open_model(saved / "bert")
    with pytest.raises(MismatchError, match=r"token 1\d\d, BertModel knows 120"):
        harvest(model, stream(vocabulary=200), "encoder.layer.0.output.dense:input", tmp_path / "x")
    model.config.max_position_embeddings = CONTEXT
    with pytest.raises(
        MismatchError, match=f"contexts of {CONTEXT + 2} tokens are longer than the {CONTEXT}"
    ):
        harvest(model, stream(), "encoder.layer.0.output.dense:input", tmp_path / "x", ends=(1, 2))


def test_only_an_encoders_tokenizer_has_ends(saved):
    class Words:
        cls_token_id, sep_token_id = 7, 8

    assert ends_of(open_model(saved / "bert"), Words()) == (7, 8)
    assert ends_of(open_model(saved / "gpt2"), Words()) is None
    Words.cls_token_id = None
    assert ends_of(open_model(saved / "bert"), Words()) is None


def test_a_module_that_nothing_passes_is_named(saved, tmp_path):
    model = open_model(saved / "mistral")
    model.unused = torch.nn.Linear(2, 2)
    with pytest.raises(MismatchError, match="unused:input: nothing passes it"):
        harvest(model, stream(), "unused:input", tmp_path / "x")
    with pytest.raises(MismatchError, match=r"rotary_emb:output: \(1, 32, 8\) for 2 contexts"):
        harvest(model, stream(), "model.rotary_emb:output", tmp_path / "y")


def test_a_folder_without_a_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing-known"}))
    with pytest.raises(CheckpointError, match="nothing-known"):
        skeleton(tmp_path)
