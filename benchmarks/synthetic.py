"""Make a synthetic Llama-shaped family for benchmarks: bf16, deterministic, written as a stream.

    python benchmarks/synthetic.py OUT --preset 1b --models a b c

base ~ N(0, 0.02), norm weights about 1; each model = base + 0.1 · 0.02 · N(0, 1), so that SLERP is spherical
in the layers (cosine 0.995) and lerp in embedding and head, whose change is five times smaller.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy import ndarray

from heredity.checkpoint import Checkpoint
from heredity.kernels.encode import encode
from heredity.seeds import generator
from heredity.writer import CheckpointWriter, Planned, write_shard

PRESETS = {
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
           "num_key_value_heads": 4, "vocab_size": 32000},
    "small": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
              "num_key_value_heads": 2, "vocab_size": 8000},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 256},
}  # fmt: skip
_PIECE = 1 << 20


def shapes(config: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a Llama of this configuration."""
    h, i, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = h // config["num_attention_heads"] * config["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, h)}
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        found |= {p + "self_attn.q_proj.weight": (h, h), p + "self_attn.k_proj.weight": (kv, h)}
        found |= {p + "self_attn.v_proj.weight": (kv, h), p + "self_attn.o_proj.weight": (h, h)}
        found |= {p + "mlp.gate_proj.weight": (i, h), p + "mlp.up_proj.weight": (i, h)}
        found |= {p + "mlp.down_proj.weight": (h, i)}
        found |= {p + "input_layernorm.weight": (h,), p + "post_attention_layernorm.weight": (h,)}
    return found | {"model.norm.weight": (h,), "lm_head.weight": (v, h)}


def make_family(out: Path, preset: str, models: list[str]) -> None:
    """Write base and models below `out`; those that exist are kept."""
    config = PRESETS[preset]
    about = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": False,
        **config,
    }
    for model in ["base", *models]:
        planned = [Planned(name, "BF16", shape) for name, shape in sorted(shapes(config).items())]
        if not (out / model / "config.json").exists():
            writer = CheckpointWriter.open(
                out / model, planned, job="synthetic", shard_bytes=10**9, overwrite=True
            )
            for shard in writer.pending():
                writer.add(write_shard(writer.path, shard, lambda tensor, model=model: _bytes(model, tensor)))
            writer.finish(donor=None, files={"config.json": json.dumps(about, indent=1)})
        Checkpoint.open(out / model)
        print(model, flush=True)


def _bytes(model: str, tensor: Planned) -> Iterator[ndarray]:
    base, own = (generator(0, "synthetic", who, tensor.name) for who in ("base", model))
    size = int(np.prod(tensor.shape))
    mean = 1.0 if len(tensor.shape) == 1 else 0.0
    change = 0.0004 if "embed" in tensor.name or "lm_head" in tensor.name else 0.002
    for start in range(0, size, _PIECE):
        count = min(_PIECE, size - start)
        values = mean + np.float32(0.02) * base.standard_normal(count, np.float32)
        if model != "base":
            values += np.float32(change) * own.standard_normal(count, np.float32)
        yield encode(values, tensor.dtype)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="1b")
    parser.add_argument("--models", nargs="+", default=["a", "b"])
    arguments = parser.parse_args()
    make_family(arguments.out, arguments.preset, arguments.models)


if __name__ == "__main__":
    main()
