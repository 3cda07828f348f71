"""SAEs on disk, in SAELens' layout: cfg.json and sae_weights.safetensors.  Source: SAELens 6.

Files of others are untrusted: names, shapes and settings are checked before a weight is read. What is the
same function written otherwise is folded into the weights; what is another function is refused by name.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta, Struct
from safetensors.torch import save_file
from torch import Tensor

from heredity import __version__
from heredity.atomic import replacing, write_text
from heredity.errors import ConfigError, StoreError
from heredity.features import sae as _variants
from heredity.features.sae import _sparsify
from heredity.features.sae._files import read_json, read_tensors
from heredity.features.sae._sae import SAE
from heredity.features.sae._variant import Extended, Variant

_WEIGHTS = "sae_weights.safetensors"
_LAYOUT_VERSION = "6.0.0"  # below, SAELens runs its converter for older files
_Width = Annotated[int, Meta(ge=1)]


def save(sae: SAE, path: Path | str) -> None:
    """Write an SAE as a folder that SAELens' `SAE.load_from_disk` reads (but for a crosscoder).

    The weights are written first: a folder with a cfg.json is complete.
    """
    path = Path(path)
    tensors = {name: getattr(sae, name) for name in _common(sae.variant)} | sae.extra
    with replacing(path / _WEIGHTS) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary)
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
    """Read an SAE that `save` wrote, one by SAELens (standard, topk, jumprelu, gated), or one by sparsify.

    Raises:
        StoreError: files are missing or unreadable, or say what is not known here.
        MismatchError: the weights' shapes do not fit the configuration.
    """
    path = Path(path)
    if (path / _sparsify.WEIGHTS).exists() and not (path / _WEIGHTS).exists():
        return _sparsify.load(path)
    record, weights = path / "cfg.json", path / _WEIGHTS
    for file in (record, weights):
        if not file.exists():
            raise StoreError(f"{file}: no such file", f"point at a folder with cfg.json and {_WEIGHTS}")
    config = read_json(record, _Config)
    own = _own(config, record)
    variant = _variant(config, own, record)
    _refuse(config, record)
    tensors = read_tensors(weights, _shapes(config, variant))
    _fold(config, tensors)
    facts = {k: v for k, v in own.items() if k not in ("version", "variant")}
    if not own:
        facts = {
            "member": config.metadata.get("model_name", ""),
            "site": config.metadata.get("hook_name", ""),
        }
    return SAE(
        variant=variant,
        W_enc=tensors["W_enc"],
        W_dec=tensors["W_dec"],
        b_enc=tensors["b_enc"] if "b_enc" in tensors else torch.zeros(config.d_sae),
        b_dec=tensors["b_dec"],
        extra={name: tensors[name] for name in _extras(variant)},
        metadata=facts,
    )


class _Config(Struct, frozen=True):
    """What matters in a cfg.json; other entries are about training or about where it runs."""

    d_in: _Width
    d_sae: _Width
    architecture: str = "standard"
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    reshape_activations: str = "none"
    rescale_acts_by_decoder_norm: bool = False
    activation_fn: str = "relu"
    activation_fn_str: str = "relu"
    finetuning_scaling_factor: bool = False
    k: _Width | None = None
    metadata: dict[str, Any] = {}


_PLAIN = {
    "normalize_activations": "none", "reshape_activations": "none", "activation_fn": "relu",
    "activation_fn_str": "relu", "finetuning_scaling_factor": False,
}  # fmt: skip
"""Settings with which an SAE is the function written in _sae.py."""


def _refuse(config: _Config, record: Path) -> None:
    for name, plain in _PLAIN.items():
        if getattr(config, name) != plain:
            raise StoreError(
                f"{record}: {name} is {getattr(config, name)!r}, only {plain!r} is known here",
                "fold it into the weights with the tool that wrote it, and save again",
            )


def _own(config: _Config, record: Path) -> dict[str, Any]:
    own = config.metadata.get("heredity", {})
    if not isinstance(own, dict) or not isinstance(own.get("variant", {}), dict):
        raise StoreError(f"{record}: metadata.heredity is no record of an SAE", "train or fetch it again")
    return own


def _variant(config: _Config, own: dict[str, Any], record: Path) -> Variant:
    written = own.get("variant")
    known = {kind.__name__: kind for home in _variants.variants() for kind in _kinds(home)}
    if config.architecture == "topk" and config.k is None:
        raise StoreError(f"{record}: a topk SAE without k", "train or fetch it again")
    for kind in known.values():
        wanted = kind.__name__ == written.get("type") if written else kind.reads_foreign
        if wanted and kind.architecture == config.architecture:
            try:
                return kind.read({"d_sae": config.d_sae, "k": config.k}, written)
            except (msgspec.ValidationError, ConfigError) as error:
                raise StoreError(f"{record}: not a {kind.__name__} SAE ({error})", "train it again") from None
    raise StoreError(
        f"{record}: architecture {config.architecture!r} is not known"
        + (f" as {written.get('type')!r}" if written else ""),
        f"known: {', '.join(sorted({kind.architecture for kind in known.values()}))}",
    )


def _kinds(home: str) -> list[type[Variant]]:
    module = __import__(f"{_variants.__name__}.{home}", fromlist=["_"])
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Variant) and value.__module__ == module.__name__
    ]


def _common(variant: Variant | type[Variant]) -> tuple[str, ...]:
    return ("W_enc", "W_dec", "b_enc", "b_dec") if variant.has_b_enc else ("W_enc", "W_dec", "b_dec")


def _extras(variant: Variant) -> tuple[str, ...]:
    return variant.extras if isinstance(variant, Extended) else ()


def _shapes(config: _Config, variant: Variant) -> dict[str, tuple[int, ...]]:
    d_in, d_sae = config.d_in, config.d_sae
    all_ = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
    return {name: all_[name] for name in _common(variant)} | dict.fromkeys(_extras(variant), (d_sae,))


def _fold(config: _Config, tensors: dict[str, Tensor]) -> None:
    """Write the same function as one that subtracts b_dec first and does not rescale by decoder norms."""
    if not config.apply_b_dec_to_input:
        shift = tensors["b_dec"] @ tensors["W_enc"]
        for name in ("b_enc", "b_gate"):
            if name in tensors:
                tensors[name] = tensors[name] + shift
        if "b_mag" in tensors:
            tensors["b_mag"] = tensors["b_mag"] + shift * tensors["r_mag"].exp()
    if config.rescale_acts_by_decoder_norm:
        norm = tensors["W_dec"].norm(dim=1)
        tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * norm, tensors["b_enc"] * norm
        tensors["W_dec"] = tensors["W_dec"] / norm[:, None]
