"""Layers, kinds and heads, from the names that architectures use."""

import pytest

from heredity.anatomy import is_buffer, is_head, kind_of, layer_of

NAMES = [
    ("model.layers.11.self_attn.q_proj.weight", 11, "attention q"),
    ("model.layers.0.self_attn.k_proj.bias", 0, "attention k"),
    ("model.layers.3.self_attn.v_proj.weight", 3, "attention v"),
    ("model.layers.3.self_attn.o_proj.weight", 3, "attention o"),
    ("model.layers.3.self_attn.q_norm.weight", 3, "norm"),
    ("model.layers.3.mlp.down_proj.weight", 3, "mlp"),
    ("model.layers.3.post_attention_layernorm.weight", 3, "norm"),
    ("model.embed_tokens.weight", None, "embedding"),
    ("model.norm.weight", None, "norm"),
    ("lm_head.weight", None, "head"),
    ("transformer.h.7.attn.c_attn.weight", 7, "attention qkv"),
    ("h.7.attn.c_proj.weight", 7, "attention o"),
    ("h.7.mlp.c_proj.weight", 7, "mlp"),
    ("h.7.ln_1.weight", 7, "norm"),
    ("wte.weight", None, "embedding"),
    ("transformer.wpe.weight", None, "embedding"),
    ("transformer.ln_f.bias", None, "norm"),
    ("bert.encoder.layer.5.attention.self.query.weight", 5, "attention q"),
    ("bert.encoder.layer.5.attention.output.dense.weight", 5, "attention o"),
    ("bert.encoder.layer.5.attention.output.LayerNorm.weight", 5, "norm"),
    ("bert.encoder.layer.5.intermediate.dense.weight", 5, "mlp"),
    ("bert.encoder.layer.5.output.dense.bias", 5, "mlp"),
    ("bert.embeddings.word_embeddings.weight", None, "embedding"),
    ("bert.embeddings.LayerNorm.weight", None, "norm"),
    ("bert.pooler.dense.weight", None, "head"),
    ("cls.predictions.transform.LayerNorm.weight", None, "head"),
    ("classifier.weight", None, "head"),
    ("gpt_neox.layers.2.attention.query_key_value.weight", 2, "attention qkv"),
    ("gpt_neox.layers.2.attention.dense.weight", 2, "attention o"),
    ("gpt_neox.layers.2.mlp.dense_h_to_4h.weight", 2, "mlp"),
    ("gpt_neox.embed_in.weight", None, "embedding"),
    ("embed_out.weight", None, "head"),
    ("strange.weight", None, "other"),
]


@pytest.mark.parametrize(("name", "layer", "kind"), NAMES)
def test_names(name, layer, kind):
    assert (layer_of(name), kind_of(name), is_head(name)) == (layer, kind, kind == "head")


def test_buffers():
    assert is_buffer("transformer.h.0.attn.bias", (1, 1, 16, 16))
    assert not is_buffer("transformer.h.0.attn.c_attn.bias", (24,))
    assert is_buffer("bert.embeddings.position_ids", (1, 512))
    assert is_buffer("model.layers.0.self_attn.rotary_emb.inv_freq", (4,))
