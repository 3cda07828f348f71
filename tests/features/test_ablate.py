import numpy as np
import pytest
import torch
from planted import stream
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from heredity.errors import ConfigError, MismatchError, StoreError
from heredity.features.ablate import ALL, ablate, acts_alone, spread
from heredity.features.feed import Feed
from heredity.features.sae import SAE, TopK
from heredity.features.site import Site, editing
from heredity.seeds import generator

WIDTH, LATENTS, VOCABULARY = 24, 40, 100
SETS = [[3], [7], [3, 7, 11], list(range(20, 40)), [5]]


def shaken(model, seed=0):
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=draw) * 0.2)
    return model.eval()


def mistral(layers):
    return shaken(MistralForCausalLM(MistralConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=WIDTH, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, sliding_window=64,
    )))  # fmt: skip


def gpt2():
    return shaken(GPT2LMHeadModel(GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=1,
    )))  # fmt: skip


MODELS = {
    "last MLP": (lambda: mistral(1), "model.layers.0.mlp.down_proj:input", True),
    "first of two": (lambda: mistral(2), "model.layers.0.mlp.down_proj:input", False),
    "last of two": (lambda: mistral(2), "model.layers.1.mlp.down_proj:input", True),
    "keys": (gpt2, "transformer.h.1.attn.c_attn:input", False),
    "block": (gpt2, "transformer.h.0:output", False),
}


@pytest.fixture(scope="module")
def tokens():
    return stream(documents=2, contexts=2, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def sae():
    draw = generator(0, "sae")
    rows = draw.standard_normal((LATENTS, WIDTH)).astype(np.float32)
    return SAE(
        variant=TopK(d_sae=LATENTS, k=3), W_enc=torch.from_numpy(rows.T.copy()), W_dec=torch.from_numpy(rows),
        b_enc=torch.from_numpy(draw.standard_normal(LATENTS).astype(np.float32)), b_dec=torch.full((WIDTH,), 0.1),
    )  # fmt: skip


def brute_force(sae, model, tokens, site, latents):
    """Σ change per document: the whole stream once more, with dense codes."""
    ids = torch.from_numpy(tokens.blocks().astype(np.int64))
    fired = []

    def without(x):
        codes = sae.encode(x.reshape(-1, x.shape[-1]))
        fired.append((codes[:, latents] > 0).any(dim=1).numpy())
        kept = codes.clone()
        kept[:, latents] = 0
        return x + (sae.decode(kept) - sae.decode(codes)).reshape(x.shape)

    def losses():
        with torch.no_grad():
            logits = model(input_ids=ids).logits[:, :-1]
        return torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), ids[:, 1:], reduction="none"
        ).double()

    before = losses()
    with editing(model, {Site.parse(site): without}):
        change = (losses() - before).numpy()
    owner = np.asarray(tokens.document).reshape(tokens.blocks().shape)
    fires = fired[0].reshape(owner.shape)[:, :-1]
    n = len(tokens.document_keys)
    own, after = owner[:, :-1].ravel(), owner[:, 1:].ravel()
    sums = [np.bincount(after, weights.ravel(), n) for weights in (change, np.abs(change))]
    return *sums, np.bincount(own, fires.ravel(), n)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch_tokens", [64, 1000])
def test_equals_brute_force(name, batch_tokens, tokens, sae):
    make, site, alone = MODELS[name]
    model = make()
    got = ablate(sae, model, tokens, site, SETS, batch_tokens=batch_tokens)
    assert got.alone == alone
    for number, latents in enumerate(SETS):
        change, moved, firings = brute_force(sae, model, tokens, site, latents)
        np.testing.assert_allclose(got.change[number], change, atol=2e-4)
        np.testing.assert_allclose(got.moved[number], moved, atol=4e-4)
        np.testing.assert_array_equal(got.firings[number], firings)
    assert np.abs(got.change).max() > 0.1
    np.testing.assert_array_equal(got.n_tokens, [62] * 4)


def test_the_table_is_the_sums_with_intervals(tokens, sae):
    got = ablate(sae, mistral(1), tokens, MODELS["last MLP"][1], SETS)
    table = got.table(seed=0, resamples=200)
    assert table["domain"].unique().sort().to_list() == [ALL, "plays", "python"]
    assert table["set"].to_list() == sorted([*range(len(SETS))] * 3)
    one = {row["domain"]: row for row in table.filter(set=3).iter_rows(named=True)}
    assert one["plays"]["loss_change"] == pytest.approx(got.change[3, :2].sum() / 124)
    assert one[ALL]["loss_change"] == pytest.approx(
        (one["plays"]["loss_change"] + one["python"]["loss_change"]) / 2
    )
    for row in table.iter_rows(named=True):
        assert row["low"] <= row["loss_change"] <= row["high"]
    assert one[ALL]["per_firing"] == pytest.approx(got.change[3].sum() / got.firings[3].sum())


def test_a_part_of_the_text_is_spread_over_its_documents(tokens, sae):
    np.testing.assert_array_equal(spread(tokens, 64), [0, 2, 4, 6])  # four contexts in each of two domains
    np.testing.assert_array_equal(spread(tokens, 1), [0, 4])
    np.testing.assert_array_equal(spread(tokens, 10**6), spread(tokens, None))
    model, site = mistral(1), MODELS["last MLP"][1]
    some = ablate(sae, model, tokens, site, SETS, tokens_per_domain=64)
    np.testing.assert_array_equal(some.n_tokens, [31] * 4)
    few = ablate(sae, model, tokens, site, SETS, tokens_per_domain=32)
    table = few.table(resamples=20)
    assert table.filter(domain="plays")["low"].null_count() == len(SETS)  # one document has no interval
    whole = ablate(sae, model, tokens, site, SETS)
    assert (np.abs(some.change) > 0).any()
    assert (some.moved <= whole.moved + 1e-9).all()


def test_a_set_that_never_fires_changes_nothing(tokens, sae):
    silent = SAE(
        variant=sae.variant, W_enc=sae.W_enc, W_dec=sae.W_dec, b_dec=sae.b_dec,
        b_enc=sae.b_enc.index_fill(0, torch.tensor([9]), -1e6),
    )  # fmt: skip
    for name in ("last MLP", "first of two"):
        make, site, _ = MODELS[name]
        got = ablate(silent, make(), tokens, site, [[9]])
        assert not got.change.any()
        assert not got.firings.any()
        assert got.table(resamples=20)["per_firing"].null_count() == 3


def test_many_sets_share_their_passes(tokens, sae, monkeypatch):
    """Each context is run at most as often as latents fire on one of its tokens."""
    model = mistral(1)
    seen = []
    whole = Feed.run
    monkeypatch.setattr(Feed, "run", lambda self, ids: seen.append(len(ids)) or whole(self, ids))
    ablate(sae, model, tokens, MODELS["last MLP"][1], [[n] for n in range(LATENTS)])
    probe, clean = 3, tokens.n_blocks
    assert sum(seen) <= probe + clean + tokens.n_blocks * sae.variant.k


def test_a_site_that_reaches_other_tokens_is_noticed(tokens):
    ids = torch.from_numpy(tokens.blocks()[:1].astype(np.int64))
    for make, site, alone in MODELS.values():
        assert acts_alone(Feed(make()), Site.parse(site), ids) == alone


def test_what_cannot_be_ablated_is_refused(tokens, sae):
    site = MODELS["last MLP"][1]
    encoder = BertModel(BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
    ))  # fmt: skip
    with pytest.raises(ConfigError, match="no next token"):
        ablate(sae, encoder, tokens, "encoder.layer.0.intermediate:output", [[1]])
    with pytest.raises(ConfigError, match="set 1 of latents"):
        ablate(sae, mistral(1), tokens, site, [[1], [LATENTS]])
    with pytest.raises(ConfigError, match="set 0 of latents"):
        ablate(sae, mistral(1), tokens, site, [[]])
    with pytest.raises(MismatchError, match="16 wide"):
        ablate(sae, mistral(1), tokens, "model.layers.0.mlp.down_proj:output", [[1]])
    broken = mistral(1)
    with torch.no_grad():
        broken.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(StoreError, match="not finite"):
        ablate(sae, broken, tokens, site, [[1]])
