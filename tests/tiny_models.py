"""Live tiny models on disk, with a tokenizer, and a task that they can learn: for tests of the model side."""

import json
from pathlib import Path

import numpy as np

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>", "good", "bad", "dull", "red", "green", "blue", "a", "the", "film",
    "was", "car", "is", "very", "not", "one",
]  # fmt: skip


def write_tokenizer(folder: Path, *, encoder: bool) -> None:
    """Write a tokenizer of whole words; an encoder's puts [CLS] and [SEP] around texts, a decoder's nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if encoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "</s>"}
    names = ["input_ids", "token_type_ids", "attention_mask"] if encoder else ["input_ids", "attention_mask"]
    settings = special | {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_bert(folder: Path, *, layers: int = 2, seed: int = 0) -> Path:
    """Write a BERT encoder of width 16."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    write_tokenizer(folder, encoder=True)
    return folder


def write_lm(folder: Path, *, seed: int = 0) -> Path:
    """Write a causal LM of width 16 with one layer and no biases."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=24, tie_word_embeddings=False,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, encoder=False)
    return folder


def write_task(
    folder: Path, name: str = "films", *, rows: int = 60, classes: int = 2, pairs: bool = False, seed: int = 0
) -> str:
    """Write NAME.train.jsonl and NAME.test.jsonl in which one word decides the label; return the reference."""
    rng = np.random.default_rng(seed)
    deciding = ["good", "bad", "dull"][:classes]
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", rows), ("test", rows // 2)):
        lines = []
        for _ in range(count):
            label = int(rng.integers(classes))
            colour = str(rng.choice(["red", "green", "blue"]))
            text = " ".join(["the", colour, "film", "was", deciding[label], *["very"] * int(rng.integers(4))])
            row: dict[str, object] = {"text": text, "label": label}
            if pairs:
                row["text_pair"] = "a car is " + colour
            lines.append(json.dumps(row))
        (folder / f"{name}.{part}.jsonl").write_text("\n".join(lines) + "\n")
    return str(folder / name)
