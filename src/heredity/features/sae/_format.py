"""SAEs on disk, in SAELens' layout: cfg.json and sae_weights.safetensors.  Source: SAELens 6."""

import json
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from heredity import __version__
from heredity.atomic import replacing, write_text
from heredity.errors import MismatchError, StoreError
from heredity.features import sae as _variants
from heredity.features.sae._sae import SAE
from heredity.features.sae._variant import Variant

_WEIGHTS = ("W_enc", "W_dec", "b_enc", "b_dec")
_LAYOUT_VERSION = "6.0.0"  # below, SAELens runs its converter for older files


def save(sae: SAE, path: Path | str) -> None:
    """Write an SAE as a folder that SAELens' `SAE.load_from_disk` reads.

    The weights are written first: a folder with a cfg.json is complete.
    """
    path = Path(path)
    with replacing(path / "sae_weights.safetensors") as temporary:
        save_file({name: getattr(sae, name).cpu().contiguous() for name in _WEIGHTS}, temporary)
    facts = sae.metadata
    config = {
        "architecture": sae.variant.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **sae.variant.settings(),
        "metadata": {
            "sae_lens_version": _LAYOUT_VERSION,
            "model_name": facts.get("member", ""),
            "hook_name": facts.get("site", ""),
            "hf_hook_name": facts.get("site", ""),
            "context_size": facts.get("context"),
            "prepend_bos": False,
            "dataset_path": facts.get("stream", ""),
            "heredity": {"version": __version__, "variant": msgspec.to_builtins(sae.variant), **facts},
        },
    }
    write_text(path / "cfg.json", json.dumps(config, indent=1, sort_keys=True) + "\n")


def load(path: Path | str) -> SAE:
    """Read an SAE that `save` wrote, or a `topk` or `standard` one by SAELens.

    Raises:
        StoreError: files are missing or unreadable, or the architecture is not known.
        MismatchError: the weights' shapes do not fit the configuration.
    """
    path = Path(path)
    record, weights = path / "cfg.json", path / "sae_weights.safetensors"
    for file in (record, weights):
        if not file.exists():
            raise StoreError(
                f"{file}: no such file", "point at a folder with cfg.json and sae_weights.safetensors"
            )
    try:
        config = json.loads(record.read_text())
        tensors = load_file(weights)
    except (ValueError, SafetensorError) as error:
        raise StoreError(f"{path}: cannot be read as an SAE ({error})", "train or fetch it again") from None
    missing = [name for name in _WEIGHTS if name not in tensors]
    if missing:
        raise StoreError(f"{weights}: no tensor {missing[0]!r}", "this architecture is not known here")
    if config.get("normalize_activations", "none") != "none":
        raise StoreError(
            f"{record}: normalize_activations is {config['normalize_activations']!r}",
            "fold the scale into the weights first",
        )
    if not config.get("apply_b_dec_to_input", True):  # the same function, with b_dec folded into b_enc
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    want = (config.get("d_in"), config.get("d_sae"))
    if tuple(tensors["W_enc"].shape) != want:
        raise MismatchError(
            f"{weights}: W_enc is {tuple(tensors['W_enc'].shape)}, cfg.json says {want}",
            "wrong pair of files",
        )
    metadata = dict(config.get("metadata") or {})
    own = metadata.pop("heredity", {})
    facts = {k: v for k, v in own.items() if k not in ("version", "variant")}
    if not own:
        facts = {"member": metadata.get("model_name", ""), "site": metadata.get("hook_name", "")}
    return SAE(
        variant=_variant(config, own.get("variant"), record),
        metadata=facts,
        **{name: tensors[name].to(torch.float32) for name in _WEIGHTS},
    )


def _variant(config: dict[str, Any], own: dict[str, Any] | None, record: Path) -> Variant:
    for home in _variants.variants():
        for kind in _kinds(home):
            if kind.architecture == config.get("architecture"):
                return kind.read(config, own)
    raise StoreError(
        f"{record}: architecture {config.get('architecture')!r} is not known",
        f"known: {', '.join(_variants.variants())}",
    )


def _kinds(home: str) -> list[type[Variant]]:
    module = __import__(f"{_variants.__name__}.{home}", fromlist=["_"])
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Variant) and value.__module__ == module.__name__
    ]
