"""A feature study of a few seconds, on made-up text: four domains with words of their own and words in common."""

from pathlib import Path
from typing import Any

import numpy as np

from heredity.studies.features.config import StudyConfig, build

DOMAINS = ("plays", "code", "lua", "verse")


def write_text(folder: Path, *, documents: int = 12, words: int = 400) -> None:
    """Write documents of made-up words; a domain prefers its own half of the lexicon and its own word order."""
    rng = np.random.default_rng(5)
    syllables = [c + v for c in "bdfgklmnprst" for v in "aeiou"]
    lexicon = np.array(["".join(rng.choice(syllables, 2)) for _ in range(80)])
    for place, domain in enumerate(DOMAINS):
        order = rng.permutation(80)
        chance = np.exp(-np.arange(80) / 20)
        for number in range(documents):
            picked = order[rng.choice(80, words, p=chance / chance.sum())]
            text = " ".join(
                f"{lexicon[w]}{'.;,:'[place] if i % 7 == 6 else ''}" for i, w in enumerate(picked)
            )
            target = folder / domain / f"{number:02}.txt"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text + "\n")


def config(**changes: Any) -> StudyConfig:
    """Settings for `write_text`'s folder; paths are relative to it."""
    training = {"learning_rate": 1e-2, "epochs": 2.0, "batch_blocks": 8, "warmup_steps": 4}
    values: dict[str, Any] = {
        "name": "pico",
        "threads": 1,
        "workers": 1,
        "highlights": 3,
        "text": {
            "corpora": [{"domain": d, "source": f"text:{d}/*.txt"} for d in DOMAINS],
            "vocabulary": 320, "context": 32, "validation": 0.2, "test": 0.2,
            "shared_tokens": 2000, "evaluation_tokens": 1500,
        },
        "base": {
            "name": "base", "domains": ["plays", "code"], "training": training,
            "model": {
                "model_type": "mistral", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
            },
        },
        "children": [
            {"name": "lua", "domains": ["lua"], "training": training},
            {"name": "verse", "domains": ["verse"], "training": training},
        ],
        "merge": {"name": "lua-verse", "left": "lua", "right": "verse", "points": 5},
        "sae": {
            "site": "model.layers.0.mlp.down_proj:input", "latents": 96, "k": 8, "tokens": 30_000, "batch_tokens": 512,
            "learning_rate": 3e-3, "l1": 0.5, "stream_tokens": 2000, "evaluation_tokens": 1000,
        },
        "lineage": {"min_firings": 20, "min_joint": 20, "resamples": 50},
    }  # fmt: skip
    return build(values | changes, "pico")
