"""Tiny families of models, written byte by byte with numpy: Llama-, GPT-2- and BERT-shaped, tied or not,
sharded, in any number format, full or LoRA. Nothing here uses heredity, so that it can check heredity.
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]
VOCABULARY = 24
WIDTH = 8


@dataclass
class PicoFamily:
    """A family on disk and the exact values (float64) that its files hold."""

    root: Path
    paths: dict[str, Path]
    values: dict[str, Weights]

    @property
    def members(self) -> list[str]:
        return [name for name in self.paths if name != "base"]

    def deltas(self, tensor: str, reference: str = "base", members: list[str] | None = None) -> np.ndarray:
        """[w_ref, Δ_1 … Δ_K] of one tensor in float64, one row each."""
        ref = self.values[reference][tensor].ravel()
        rows = [self.values[m][tensor].ravel() - ref for m in members or self.members]
        return np.stack([ref, *rows])


def make_family(
    root: Path, *, kind: str = "llama", members: tuple[str, ...] = ("a", "b", "c"),
    dtype: str | dict[str, str] = "F32", shards: int | dict[str, int] = 1, tied: bool = False,
    relative: float = 0.05, seed: int = 0,
) -> PicoFamily:  # fmt: skip
    """Write a base and members = base + relative · noise."""
    rng = np.random.default_rng(seed)
    base = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes(kind, tied=tied).items()}
    family = PicoFamily(root, {}, {})
    for name in ("base", *members):
        weights = base
        if name != "base":
            weights = {
                n: (w + relative * rng.normal(size=w.shape)).astype(np.float32) for n, w in base.items()
            }
        own = dtype if isinstance(dtype, str) else dtype[name]
        count = shards if isinstance(shards, int) else shards[name]
        family.paths[name] = root / name
        family.values[name] = write_model(
            root / name, weights, dtype=own, shards=count, config=config(kind, tied=tied)
        )
    return family


def shapes(kind: str, *, tied: bool = False, layers: int = 2) -> dict[str, tuple[int, ...]]:
    """Names and shapes as the Hub has them."""
    d, v = WIDTH, VOCABULARY
    if kind == "llama":
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
        for i in range(layers):
            p = f"model.layers.{i}."
            found |= {p + f"self_attn.{x}_proj.weight": (d, d) for x in "qo"}
            found |= {p + f"self_attn.{x}_proj.weight": (d // 2, d) for x in "kv"}  # grouped queries
            found |= {p + f"mlp.{x}_proj.weight": (3 * d, d) for x in ("gate", "up")}
            found |= {p + "mlp.down_proj.weight": (d, 3 * d), p + "input_layernorm.weight": (d,)}
        return found if tied else {**found, "lm_head.weight": (v, d)}
    if kind == "gpt2":
        found = {
            "transformer.wte.weight": (v, d),
            "transformer.wpe.weight": (16, d),
            "transformer.ln_f.weight": (d,),
        }
        for i in range(layers):
            p = f"transformer.h.{i}."
            found |= {
                p + "attn.c_attn.weight": (d, 3 * d),
                p + "attn.c_attn.bias": (3 * d,),
                p + "ln_1.weight": (d,),
            }
            found |= {p + "attn.c_proj.weight": (d, d), p + "mlp.c_fc.weight": (d, 4 * d)}
        return found if tied else {**found, "lm_head.weight": (v, d)}
    found = {"bert.embeddings.word_embeddings.weight": (v, d), "bert.embeddings.LayerNorm.weight": (d,)}
    for i in range(layers):
        p = f"bert.encoder.layer.{i}."
        found |= {p + f"attention.self.{x}.weight": (d, d) for x in ("query", "key", "value")}
        found |= {p + "attention.output.dense.weight": (d, d), p + "intermediate.dense.weight": (4 * d, d)}
        found |= {p + "output.dense.weight": (d, 4 * d), p + "output.LayerNorm.bias": (d,)}
    return {**found, "classifier.weight": (3, d)}


def config(kind: str, *, tied: bool = False) -> dict[str, Any]:
    """A config.json that says which model this is."""
    names = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel", "bert": "BertForSequenceClassification"}
    return {
        "model_type": kind,
        "architectures": [names[kind]],
        "tie_word_embeddings": tied,
        "vocab_size": VOCABULARY,
    }


def write_model(
    folder: Path,
    weights: Weights,
    *,
    dtype: str = "F32",
    shards: int = 1,
    config: dict[str, Any] | None = None,
) -> Weights:
    """Write a checkpoint; return the values as stored, float64."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(weights)
    if shards == 1:
        write_file(folder / "model.safetensors", weights, dtype)
    else:
        weight_map = {}
        for i in range(shards):
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            part = {n: weights[n] for n in names[i::shards]}
            write_file(folder / file, part, dtype)
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return {n: stored(w, dtype) for n, w in weights.items()}


def write_file(path: Path, weights: Weights, dtype: str = "F32", padding: int = 0) -> None:
    """Write one safetensors file by hand."""
    header, data = {}, b""
    for name, array in weights.items():
        raw = encode(array, dtype)
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    write_raw(path, header, data, padding)


def write_raw(path: Path, header: dict[str, Any], data: bytes, padding: int = 0) -> None:
    """Write a header and data as they are; `padding` spaces move the data off its alignment."""
    text = json.dumps(header).encode() + b" " * padding
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def encode(array: np.ndarray, dtype: str) -> bytes:
    """Bytes of an array in a number format, rounded to nearest."""
    array = np.ascontiguousarray(array, np.float32)
    if dtype == "F32":
        return array.tobytes()
    if dtype == "F64":
        return array.astype(np.float64).tobytes()
    if dtype == "F16":
        return array.astype(np.float16).tobytes()
    if dtype == "BF16":
        bits = array.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes()
    values = eight_bits(dtype)
    codes = np.flatnonzero(np.isfinite(values))
    nearest = np.abs(values[codes][None, :] - array.reshape(-1, 1)).argmin(axis=1)
    return codes[nearest].astype(np.uint8).tobytes()


def stored(array: np.ndarray, dtype: str) -> np.ndarray:
    """The values that `encode` keeps, float64."""
    raw = encode(array, dtype)
    if dtype in ("F32", "F64", "F16"):
        flat = np.frombuffer(raw, {"F32": np.float32, "F64": np.float64, "F16": np.float16}[dtype]).astype(
            np.float64
        )
    elif dtype == "BF16":
        flat = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    else:
        flat = eight_bits(dtype)[np.frombuffer(raw, np.uint8)]
    return flat.reshape(np.shape(array))


def eight_bits(dtype: str) -> np.ndarray:
    """All 256 values of an 8-bit format, from its definition."""
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    if dtype == "F8_E4M3":
        e, m = codes >> 3 & 15, (codes & 7) / 8
        values = np.where(e == 0, 2.0**-6 * m, 2.0 ** (e - 7.0) * (1 + m))
        values[(codes & 0x7F) == 0x7F] = np.nan
    else:
        e, m = codes >> 2 & 31, (codes & 3) / 4
        values = np.where(e == 0, 2.0**-14 * m, 2.0 ** (e - 15.0) * (1 + m))
        values[e == 31] = np.where(m[e == 31] == 0, np.inf, np.nan)
    return sign * values


def write_adapter(
    folder: Path, targets: dict[str, tuple[int, int]], *, rank: int = 2, alpha: float = 4.0, seed: int = 0,
    saved: Weights | None = None, rank_pattern: dict[str, int] | None = None,
    alpha_pattern: dict[str, float] | None = None, prefix: str = "base_model.model.", **settings: Any,
) -> Weights:  # fmt: skip
    """Write a PEFT LoRA folder for modules → stored shape of their weight; return dense Δ by tensor, float64.

    Modules whose last part is embed_tokens, wte or word_embeddings get embedding factors. With fan_in_fan_out
    the stored shape is [in, out].
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    factors: Weights = {}
    dense: Weights = {}
    for module, shape in targets.items():
        r = next((v for k, v in (rank_pattern or {}).items() if module.endswith(k)), rank)
        a_value = next((v for k, v in (alpha_pattern or {}).items() if module.endswith(k)), alpha)
        scale = a_value / np.sqrt(r) if settings.get("use_rslora") else a_value / r
        embedding = module.rsplit(".", 1)[-1] in ("embed_tokens", "wte", "word_embeddings")
        turned = embedding or settings.get("fan_in_fan_out", False)
        out, into = (shape[1], shape[0]) if turned else shape
        a, b = rng.normal(size=(r, into)).astype(np.float32), rng.normal(size=(out, r)).astype(np.float32)
        if embedding:
            factors |= {f"{prefix}{module}.lora_embedding_A": a, f"{prefix}{module}.lora_embedding_B": b}
        else:
            factors |= {f"{prefix}{module}.lora_A.weight": a, f"{prefix}{module}.lora_B.weight": b}
        product = scale * b.astype(np.float64) @ a.astype(np.float64)
        dense[f"{module}.weight"] = product.T if turned else product
    write_file(
        folder / "adapter_model.safetensors",
        {**factors, **{f"{prefix}{n}": w for n, w in (saved or {}).items()}},
    )
    facts = {
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none",
        "rank_pattern": rank_pattern or {}, "alpha_pattern": alpha_pattern or {},
        "target_modules": sorted({m.rsplit(".", 1)[-1] for m in targets}),
        "modules_to_save": sorted({n.rsplit(".", 2)[-2] for n in saved or {}}) or None, **settings,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    return dense


def write_tokenizer(folder: Path, tokens: list[str]) -> None:
    """Write a tokenizer.json with a vocabulary and nothing else."""
    table = {
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": []},
        "added_tokens": [],
    }
    (folder / "tokenizer.json").write_text(json.dumps(table))
