"""What kind of model a folder holds, and the model itself: decoder, encoder, or encoder and decoder.

A decoder is loaded with its head, so that its loss is known; any other model as the class that it was saved as.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from heredity.checkpoint import Checkpoint
from heredity.errors import CheckpointError, ConfigError
from heredity.models.load import first_line, from_config, load, quiet_transformers

Kind = Literal["decoder", "encoder", "encoder-decoder"]


def kind_of(config: Any) -> Kind:
    """Return the kind of a transformers configuration (or of a model's `config`)."""
    from transformers.models.auto import modeling_auto as auto

    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    names = getattr(config, "architectures", None) or []
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return "decoder"
    kind = str(getattr(config, "model_type", ""))
    looks_back = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    # BERT and its kin can be made to look back, so only what was never a masked model counts
    return "decoder" if looks_back and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES else "encoder"


def predicts_text(model: nn.Module) -> bool:
    """Say whether a live model is a causal LM: it has a head over its vocabulary and sees no token to come."""
    return kind_of(model.config) == "decoder" and type(model).__name__.endswith(
        ("ForCausalLM", "LMHeadModel")
    )


def open_model(ref: Path | str, *, device: str = "cpu", dtype: str = "float32") -> nn.Module:
    """Load any transformers model in evaluation mode.

    Args:
        ref: folder, Hub id, or `archive:FILE#FOLDER`.
        device: torch device.
        dtype: "float32", "bfloat16" or "float16".

    Raises:
        CheckpointError: no such model, or transformers cannot read it.
        MismatchError: the weights do not fit the configuration.
    """
    folder = Checkpoint.open(ref).path
    return load(folder, device=device, dtype=dtype, as_saved=not _has_lm_head(folder))


def skeleton(ref: Path | str) -> nn.Module:
    """Build the model that `open_model` would load, without its weights: on torch's meta device.

    Raises:
        CheckpointError: no such model, or transformers does not know its kind.
    """
    import transformers

    folder = Path(ref) if (Path(ref) / "config.json").is_file() else Checkpoint.open(ref).path
    try:
        with quiet_transformers(), torch.device("meta"):
            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            config._attn_implementation = (
                "eager"  # the faster ones look at the mask's values, which are not there
            )
            if _has_lm_head(folder):
                model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            else:
                named = getattr(transformers, str((config.architectures or [""])[0]), None)
                model = named(config) if named else transformers.AutoModel.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: {first_line(error)}", "give a folder that a model was saved to, with its config.json"
        ) from None
    return model.eval()


def unweighted(config: dict[str, Any]) -> nn.Module:
    """Build the causal LM of a transformers configuration without weights, on torch's meta device.

    Args:
        config: the content of a config.json, with `model_type`.

    Raises:
        ConfigError: transformers knows no such model, or its sizes do not fit each other.
    """
    with torch.device("meta"), torch.no_grad():
        model = from_config(config, attn_implementation="eager").eval()
        try:
            model(input_ids=torch.zeros((1, 2), dtype=torch.long))
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"a model of model_type {config['model_type']!r} of these sizes cannot run ({first_line(error)})",
                "hidden_size must be a multiple of num_attention_heads, and that of num_key_value_heads",
            ) from None
    return model


def _has_lm_head(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True  # the loader says what is wrong with the folder
    names = config.get("architectures") or [] if isinstance(config, dict) else []
    if config.get("is_encoder_decoder"):
        return False
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
