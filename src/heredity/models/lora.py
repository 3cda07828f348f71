"""LoRA on a live model, through the optional package `peft`; merged into the weights when it is saved."""

import warnings
from pathlib import Path
from typing import Any

from heredity.errors import ExtraMissingError
from heredity.models.load import quiet_transformers, torch
from heredity.seeds import key


def attach(model: Any, *, rank: int, seed: int) -> Any:
    """Put LoRA factors on every linear layer, in place, and freeze all else; return peft's handle.

    Args:
        model: a model of transformers, without a head of ours.
        rank: of the factors; α = 2·rank.
        seed: of the factors' first values.

    Raises:
        ExtraMissingError: peft is not installed.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise ExtraMissingError("fine-tuning by LoRA", "lora") from None
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
    device = next(model.parameters()).device
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        warnings.catch_warnings(),
    ):
        torch.manual_seed(key(seed, "lora factors") >> 1)
        warnings.simplefilter("ignore", FutureWarning)  # peft's own, about names it uses of transformers
        return peft.get_peft_model(model, config)


def save_and_merge(adapter: Any, folder: Path) -> None:
    """Write the adapter as peft does, then add it to the weights of the model it was attached to, in place."""
    with quiet_transformers():
        adapter.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's card is empty
    adapter.merge_and_unload()
