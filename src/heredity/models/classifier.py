"""An encoder with a linear head: any architecture, its tokens pooled into one vector.

A saved classifier is a folder of the encoder (`AutoModel` loads it, with the names its base has) with the head
beside it in head.safetensors: [classes, width] and [classes].
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from heredity.anatomy import is_head, layer_of
from heredity.checkpoint import Checkpoint
from heredity.errors import CheckpointError, ConfigError, MismatchError
from heredity.models.load import device_of, dtype_of, first_line, quiet_transformers, torch
from heredity.seeds import generator

nn = torch.nn
Pooling = Literal["mean", "first", "last"]
HEAD = "head.safetensors"
TOKENIZER_FILES = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model",
    "chat_template.jinja",
)  # fmt: skip


class Classifier(nn.Module):
    """Logits of a pooled vector.

    Attributes:
        encoder: gives `last_hidden_state`.
        head: linear, in float32.
        pooling: mean over the tokens, or the first or the last of them.
    """

    def __init__(self, encoder: Any, classes: int, *, pooling: Pooling, seed: int) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        width = int(encoder.config.hidden_size)
        self.head = nn.Linear(width, classes)
        draws = generator(seed, "head").normal(size=(classes, width)) * 0.02
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(draws.astype(np.float32)))
            self.head.bias.zero_()
        self.head.to(next(encoder.parameters()).device)

    def forward(self, batch: dict[str, torch.Tensor]) -> Float[torch.Tensor, "rows classes"]:
        """Return the logits of a batch."""
        logits: torch.Tensor = self.head(pooled(self.encoder, batch, self.pooling))
        return logits


def pooled(
    encoder: Any, batch: dict[str, torch.Tensor], pooling: Pooling
) -> Float[torch.Tensor, "rows width"]:
    """Return one float32 vector for each row of a batch."""
    hidden = encoder(**batch).last_hidden_state.float()
    mask = batch["attention_mask"]
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        last = mask.sum(1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weight = mask[..., None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def pooling_of(encoder: Any) -> Pooling:
    """Choose how tokens become a vector: the last one where attention looks back only, else their mean."""
    from transformers.models.auto import modeling_auto as auto

    kind = encoder.config.model_type
    looks_back = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return "last" if looks_back and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES else "mean"


def load_encoder(
    path: Path | str, *, layers: int | None = None, device: str = "cpu", dtype: str = "float32"
) -> Any:
    """Load a model without its head, in evaluation mode.

    Args:
        path: a folder with config.json and safetensors.
        layers: keep the first so many layers; None keeps all.
        device: torch device.
        dtype: "float32", "bfloat16" or "float16".

    Raises:
        CheckpointError: no such folder, or transformers cannot read it.
        ConfigError: it has fewer layers.
        MismatchError: the weights do not fit the configuration.
    """
    from transformers import AutoConfig, AutoModel

    folder = Checkpoint.open(path).path
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if layers is not None:
            _cut(config, layers, folder)
        with quiet_transformers():
            model, info = AutoModel.from_pretrained(
                folder, config=config, dtype=dtype_of(dtype), local_files_only=True, trust_remote_code=False,
                use_safetensors=True, output_loading_info=True,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: {first_line(error)}", "give a folder that a model was saved to, with its config.json"
        ) from error
    wrong = [name for name in map(str, info["missing_keys"]) if not is_head(name)]
    wrong += [name for name in map(str, info["unexpected_keys"]) if not _left_out(name, layers)]
    wrong += [str(name) for name in info.get("mismatched_keys", [])]
    if wrong:
        raise MismatchError(
            f"{folder}: {len(wrong)} tensors do not fit config.json, first {sorted(wrong)[0]}",
            "the weights and the configuration belong to different models",
        )
    _drop_pooler(model)
    return model.to(device_of(device)).eval()


def save_encoder(encoder: Any, tokenizer_folder: Path, folder: Path) -> None:
    """Write an encoder and its tokenizer's files into a folder that exists."""
    with quiet_transformers():
        encoder.save_pretrained(folder)
    copy_tokenizer(tokenizer_folder, folder)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy a tokenizer's files."""
    for pattern in TOKENIZER_FILES:
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                (folder / file.name).write_bytes(file.read_bytes())


def _cut(config: Any, layers: int, folder: Path) -> None:
    have = int(config.num_hidden_layers)
    if not 1 <= layers <= have:
        raise ConfigError(f"{folder}: has {have} layers, not {layers}", f"keep 1 to {have} layers")
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def _left_out(name: str, layers: int | None) -> bool:
    """Say whether a tensor may stand in the file unused: a head's, of a layer above the cut, a buffer."""
    layer = layer_of(name)
    above = layers is not None and layer is not None and layer >= layers
    return (
        above
        or is_head(name)
        or name.startswith(("cls.", "lm_head."))
        or name.endswith(("position_ids", "inv_freq"))
    )


def _drop_pooler(model: Any) -> None:
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # its output is not used: it would be saved, counted and never trained
