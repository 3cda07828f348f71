"""Pico families for the tests of merging: thousands of weights in the shapes and names of real models."""

from pathlib import Path

import numpy as np
from numpy import ndarray

from heredity.checkpoint import Checkpoint
from heredity.writer import write_checkpoint

Weights = dict[str, ndarray]

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40,
    "tie_word_embeddings": False, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 16, "n_layer": 2, "n_head": 4,
    "vocab_size": 40, "n_positions": 32,
}  # fmt: skip
BERT = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40, "max_position_embeddings": 32,
    "type_vocab_size": 2,
}  # fmt: skip


def llama_shapes(layers: int = 3) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (40, 16)}
    for i in range(layers):
        p = f"model.layers.{i}."
        shapes |= {p + "self_attn.q_proj.weight": (16, 16), p + "self_attn.k_proj.weight": (8, 16)}
        shapes |= {p + "self_attn.v_proj.weight": (8, 16), p + "self_attn.o_proj.weight": (16, 16)}
        shapes |= {p + "mlp.gate_proj.weight": (24, 16), p + "mlp.up_proj.weight": (24, 16)}
        shapes |= {p + "mlp.down_proj.weight": (16, 24)}
        shapes |= {p + "input_layernorm.weight": (16,), p + "post_attention_layernorm.weight": (16,)}
    return shapes | {"model.norm.weight": (16,), "lm_head.weight": (40, 16)}


def gpt2_shapes(layers: int = 2) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (40, 16),
        "transformer.wpe.weight": (32, 16),
    }
    for i in range(layers):
        p = f"transformer.h.{i}."
        for name, shape in {"attn.c_attn": (16, 48), "attn.c_proj": (16, 16), "mlp.c_fc": (16, 64)}.items():
            shapes |= {f"{p}{name}.weight": shape, f"{p}{name}.bias": shape[1:]}
        shapes |= {p + "mlp.c_proj.weight": (64, 16), p + "mlp.c_proj.bias": (16,)}
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{p}{norm}.weight": (16,), f"{p}{norm}.bias": (16,)}
    return shapes | {"transformer.ln_f.weight": (16,), "transformer.ln_f.bias": (16,)}


def bert_shapes(layers: int = 2) -> dict[str, tuple[int, ...]]:
    embeddings = {"word_embeddings": 40, "position_embeddings": 32, "token_type_embeddings": 2}
    shapes: dict[str, tuple[int, ...]] = {
        f"bert.embeddings.{n}.weight": (r, 16) for n, r in embeddings.items()
    }
    norms = ["bert.embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"]
    dense = {"cls.predictions.transform.dense": (16, 16), "bert.pooler.dense": (16, 16)}
    for i in range(layers):
        p = f"bert.encoder.layer.{i}."
        dense |= {f"{p}attention.self.{n}": (16, 16) for n in ("query", "key", "value")}
        dense |= {p + "attention.output.dense": (16, 16), p + "intermediate.dense": (24, 16)}
        dense |= {p + "output.dense": (16, 24)}
        norms += [p + "attention.output.LayerNorm", p + "output.LayerNorm"]
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (16,), f"{name}.bias": (16,)}
    return shapes | {"cls.predictions.bias": (40,)}


ARCHITECTURES = {"llama": (LLAMA, llama_shapes), "gpt2": (GPT2, gpt2_shapes), "bert": (BERT, bert_shapes)}


def weights(shapes: dict[str, tuple[int, ...]], seed: int, scale: float = 1.0) -> Weights:
    generator = np.random.default_rng(seed)
    return {n: (scale * generator.normal(size=s)).astype(np.float32) for n, s in shapes.items()}


def family(
    folder: Path,
    architecture: str = "llama",
    models: int = 3,
    change: float = 0.3,
    dtype: str = "F32",
    layers: int | None = None,
) -> dict[str, Checkpoint]:
    """Write base, a, b, c …: every model the base plus a random change."""
    config, make = ARCHITECTURES[architecture]
    shapes = make() if layers is None else make(layers)
    base = weights(shapes, 0, 0.1)
    made = {"base": base}
    for i in range(models):
        delta = weights(shapes, i + 1, 0.1 * change)
        made["abcdefgh"[i]] = {n: base[n] + delta[n] for n in base}
    if layers is not None:
        config = {**config, "num_hidden_layers": layers}
    return {
        name: write_checkpoint(folder / name, {n: (w, dtype) for n, w in tensors.items()}, config=config)
        for name, tensors in made.items()
    }


def read(checkpoint: Checkpoint) -> Weights:
    return {name: checkpoint.read(name) for name in checkpoint.tensors}
