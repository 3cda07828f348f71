import numpy as np
import pytest
import torch
from planted import CONTEXT, codes, dense, stream
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
)

from heredity.errors import ConfigError, MismatchError
from heredity.features.effects import effects_table, measured_effects
from heredity.features.readout import readout

VOCABULARY, HIDDEN = 100, 16


def word(token: int) -> str:
    return f" w{token}"


def shaken(model):
    """Norms with gains of their own, and weights that matter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.add_(torch.randn_like(value) * (0.3 if value.ndim == 1 or "embed" in name else 0.15))
    return model.eval()


@pytest.fixture(scope="module")
def mistral():
    config = MistralConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, sliding_window=64,
    )  # fmt: skip
    return shaken(MistralForCausalLM(config))


@pytest.fixture(scope="module")
def gpt2():
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=HIDDEN,
        n_layer=2,
        n_head=2,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    return shaken(GPT2LMHeadModel(config))


def centred(rows):
    return rows - rows.mean(axis=1, keepdims=True)


def test_effects_go_through_down_proj_gain_and_unembedding(mistral):
    directions = np.random.default_rng(0).normal(size=(5, 24)).astype(np.float32)
    way = readout(mistral, "model.layers.0.mlp.down_proj:input")
    weights = {name: value.detach().double().numpy() for name, value in mistral.named_parameters()}
    rows = directions @ weights["model.layers.0.mlp.down_proj.weight"].T * weights["model.norm.weight"]
    np.testing.assert_allclose(
        way.effects(directions).numpy(), centred(rows @ weights["lm_head.weight"].T), rtol=2e-3, atol=1e-4
    )
    assert not way.centred
    assert way.directness == pytest.approx(1)
    assert way.effects(directions, 60).shape == (5, 60)


def test_effects_of_an_output_are_centred_by_layer_norm(gpt2):
    directions = np.random.default_rng(0).normal(size=(5, HIDDEN)).astype(np.float32)
    weights = {name: value.detach().double().numpy() for name, value in gpt2.named_parameters()}
    expected = centred(
        centred(directions) * weights["transformer.ln_f.weight"] @ weights["transformer.wte.weight"].T
    )
    way = readout(gpt2, "transformer.h.1.mlp:output")
    assert way.centred
    np.testing.assert_allclose(way.effects(directions).numpy(), expected, rtol=2e-3, atol=1e-4)
    into = np.random.default_rng(1).normal(size=(5, 4 * HIDDEN)).astype(np.float32)
    pushed = into @ weights["transformer.h.1.mlp.c_proj.weight"]
    np.testing.assert_allclose(
        readout(gpt2, "transformer.h.1.mlp.c_proj:input").effects(into).numpy(),
        way.effects(pushed.astype(np.float32)).numpy(),
        rtol=1e-3,
        atol=1e-4,
    )
    early = readout(gpt2, "transformer.h.0.mlp.c_proj:input").directness  # the second layer answers to it
    assert 0.2 < early < 0.9999


@pytest.mark.parametrize(
    "site",
    [
        "model.layers.0.self_attn.q_proj:output",
        "model.layers.0.self_attn.q_proj:input",
        "model.layers.0.mlp:input",
        "model.layers.0.mlp.up_proj:output",
    ],
)
def test_sites_without_a_direct_way_are_refused(mistral, site):
    with pytest.raises(ConfigError, match=site.replace(".", r"\.")):
        readout(mistral, site)


def test_an_encoder_and_a_wrong_width_are_refused(mistral):
    encoder = BertModel(
        BertConfig(
            vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
        )
    )
    with pytest.raises(ConfigError, match="predicts no next token"):
        readout(encoder, "encoder.layer.0.output.dense:input")
    with pytest.raises(MismatchError, match="5 wide, the site 24"):
        readout(mistral, "model.layers.0.mlp.down_proj:input").effects(np.zeros((2, 5), np.float32))


@pytest.fixture(scope="module")
def told(mistral):
    """Latent 0 pushes towards token 7 and fires before it; latent 3 never fires; the others are random."""
    tokens = stream(documents=6)
    names = np.asarray(tokens.tokens)
    values = dense(tokens, 30, rate=0.05, seed=1)
    before = np.append(names[1:] == 7, False)
    before[CONTEXT - 1 :: CONTEXT] = False
    values[:, 0] = before * 2.0
    values[:, 3] = 0
    way = readout(mistral, "model.layers.0.mlp.down_proj:input")
    decoder = np.random.default_rng(2).normal(size=(30, 24)).astype(np.float32)
    to_logits = (way.into.double() * way.gain) @ way.unembedding.double().T
    to_logits = to_logits - to_logits.mean(dim=1, keepdim=True)
    decoder[0] = torch.linalg.pinv(to_logits).numpy()[7]
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    return tokens, values, codes(values, tokens), way, decoder


def test_tokens_promoted_are_those_that_follow(told):
    tokens, values, own, way, decoder = told
    table = effects_table(way, decoder, own, tokens, word, seed=0, top=3, nulls=20)
    effects = way.effects(decoder).numpy()
    for latent in (0, 5):
        order = np.argsort(-effects[latent])
        row = table.row(latent, named=True)
        assert row["promoted"] == [word(i) for i in order[:3]]
        assert row["suppressed"] == [word(i) for i in order[::-1][:3]]
        assert row["promoted_effects"] == pytest.approx(effects[latent][order[:3]].tolist(), rel=1e-5)
        assert row["effect_std"] == pytest.approx(effects[latent].std(), rel=1e-4)
    assert table["promoted"][0][0] == word(7)
    names = np.asarray(tokens.tokens)
    at = np.flatnonzero(values[:, 5])
    at = at[at % CONTEXT < CONTEXT - 1]
    every = names[1:][np.arange(tokens.n_tokens - 1) % CONTEXT < CONTEXT - 1]
    mean, std = effects[5][every].mean(), effects[5][every].std()
    assert table["observed"][5] == pytest.approx((effects[5][names[at + 1]].mean() - mean) / std, abs=1e-3)
    assert table["n_next"][5] == len(at)
    assert table["observed"][0] > table["observed_null_high"][0] > table["observed_null"][0]
    assert table["observed"][0] > 2
    assert abs(table["observed"][5:].mean()) < 0.3  # random latents say nothing of what follows
    assert table["observed"][3] is None
    assert table["directness"].unique().to_list() == [way.directness]


def test_rows_do_not_depend_on_the_chunks(told, monkeypatch):
    tokens, _, own, way, decoder = told
    whole = effects_table(way, decoder, own, tokens, word, seed=0, nulls=20)
    monkeypatch.setattr("heredity.features.effects._CHUNK_NUMBERS", 700)
    parts = effects_table(way, decoder, own, tokens, word, seed=0, nulls=20)
    assert parts["promoted"].to_list() == whole["promoted"].to_list()
    for name in ("observed", "observed_null", "effect_kurtosis"):
        np.testing.assert_allclose(parts[name].drop_nulls(), whole[name].drop_nulls(), rtol=1e-3, atol=1e-3)


def test_taking_a_latent_out_changes_what_its_direct_effect_says(told, mistral):
    tokens, _, own, way, decoder = told
    small = decoder * 0.05
    table = measured_effects(
        mistral, way, "model.layers.0.mlp.down_proj:input", small, own, tokens, [0, 3, 5, 6], seed=0, nulls=20
    )
    assert table["latent"].to_list() == [0, 5, 6]  # one that never fires has no contexts
    assert (table["measured"] > table["measured_null_high"]).all()
    assert (table["measured"] > 0.6).all()
    assert table["measured_null"].abs().max() < 0.5
    assert table["n_contexts"].to_list() == [4, 4, 4]
    alone = measured_effects(
        mistral,
        way,
        "model.layers.0.mlp.down_proj:input",
        small,
        own,
        tokens,
        [6],
        seed=0,
        nulls=20,
        batch_tokens=1,
    )
    assert alone["measured"][0] == pytest.approx(table["measured"][2], abs=1e-3)
