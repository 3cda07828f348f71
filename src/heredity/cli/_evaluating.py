"""What `heredity evaluate` does: an SAE beside its model, or a crosscoder beside all of its members."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from heredity.checkpoint import Checkpoint
from heredity.cli._text import ends_for, stream_of
from heredity.errors import ConfigError
from heredity.family import Family
from heredity.features.crosscoder_quality import OnDemand, crosscoder_qualities
from heredity.features.crosscoding import members_of
from heredity.features.evaluate import no_loss, quality_curve
from heredity.features.sae import SAE, Crosscoder
from heredity.models.architecture import open_model
from heredity.studies.tracking.kin import check_tokenizers


class Text(Struct, frozen=True, kw_only=True):
    """Held-out text as it is asked for: see `stream_of`."""

    data: tuple[str, ...]
    domains: tuple[str, ...]
    max_tokens: int
    context: int
    seed: int


def quality(
    sae: SAE, models: Sequence[str], text: Text, site: str, ks: Sequence[int], ablation: Literal["zero", "mean"],
    device: str,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """Measure an SAE in its one model, or a crosscoder in each member: as plain values, and as lines.

    Raises:
        HeredityError: the models are too few, too many or of other names; text or site do not fit them.
    """
    if isinstance(sae.variant, Crosscoder):
        return _joint(sae, models, text, site, ks, ablation, device)
    if len(models) > 1:
        raise ConfigError(
            f"{len(models)} models for an SAE of one member",
            "name its model; only a crosscoder takes several",
        )
    folder = Checkpoint.open(models[0]).path
    with tempfile.TemporaryDirectory() as work:
        stream = stream_of(
            text.data, folder, Path(work), context=text.context, domains=text.domains, max_tokens=text.max_tokens,
            seed=text.seed,
        )  # fmt: skip
        live = open_model(folder, device=device)
        found = quality_curve(
            sae, live, stream, site, [None, *ks], ablation=ablation, ends=ends_for(live, folder)
        )
    why = no_loss(live)
    rows: list[dict[str, Any]] = [msgspec.to_builtins(one) for one in found]
    lines = [_line(row) for row in rows]
    if why is not None:
        lines.append(f"no recovered loss: {why}")
    return {"model": models[0], "no_loss": why, "quality": rows}, lines


def _joint(
    sae: SAE, models: Sequence[str], text: Text, site: str, ks: Sequence[int], ablation: Literal["zero", "mean"],
    device: str,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    if ks:
        raise ConfigError("a crosscoder SAE has no k", "leave -k out")
    named = by_member(members_of(sae), models)
    folders = {name: Checkpoint.open(model).path for name, model in named.items()}
    with_words = {name: path for name, path in folders.items() if (path / "tokenizer.json").is_file()}
    if len(with_words) > 1:
        check_tokenizers(Family.of(with_words, name="of the crosscoder"))
    first = next(iter(with_words or folders))
    whys: dict[str, str | None] = {}

    def load(name: str) -> Any:
        live = open_model(folders[name], device=device)
        whys[name] = no_loss(live)
        return live

    with tempfile.TemporaryDirectory() as work:
        stream = stream_of(
            text.data, folders[first], Path(work), context=text.context, domains=text.domains,
            max_tokens=text.max_tokens, seed=text.seed,
        )  # fmt: skip
        found = crosscoder_qualities(
            sae, OnDemand(tuple(named), load), stream, site, ablation=ablation,
            ends=lambda live: ends_for(live, folders[first]), work=Path(work) / "activations",
        )  # fmt: skip
    rows: list[dict[str, Any]] = [{"member": name, **msgspec.to_builtins(one)} for name, one in found.items()]
    lines = [f"{row['member']}: {_line(row)}" for row in rows]
    lines += [f"{name}: no recovered loss: {why}" for name, why in whys.items() if why is not None]
    return {"models": named, "no_loss": whys, "quality": rows}, lines


def by_member(members: Sequence[str], models: Sequence[str]) -> dict[str, str]:
    """Return the model of each member, from NAME=PATH of all, or from paths in the members' order.

    Raises:
        ConfigError: too few or too many, one member twice, a name that is no member's, or named and unnamed ones.
    """
    named = [one.partition("=") for one in models]
    known = [name for name, equals, _ in named if equals and name in members]
    expected = " ".join(f"{name}=PATH" for name in members)
    strange = [
        name for (name, equals, _), one in zip(named, models, strict=True)
        if equals and name not in members and not Path(one).exists() and "/" not in name
    ]  # fmt: skip
    if strange:
        raise ConfigError(
            f"the crosscoder is over {', '.join(members)}, not over {strange[0]!r}", f"give {expected}"
        )
    if not known and len(models) == len(members):
        return dict(zip(members, models, strict=True))
    if known and len(known) < len(models):
        raise ConfigError("some models are named, others are not", f"give {expected}")
    empty = [name for name, equals, path in named if equals and not path]
    if empty:
        raise ConfigError(f"{empty[0]}= names no model", f"give {expected}")
    twice = [name for name in dict.fromkeys(known) if known.count(name) > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice", f"give {expected}")
    if len(models) != len(members):
        missing = [name for name in members if name not in known]
        lack = f", {', '.join(missing)} {'has' if len(missing) == 1 else 'have'} none" if known else ""
        raise ConfigError(
            f"{len(models)} model{'' if len(models) == 1 else 's'} for a crosscoder over {len(members)} members{lack}",
            f"give {expected}, or one path for each in this order",
        )
    paths = {name: path for name, _, path in named}
    return {name: paths[name] for name in members}


def _line(row: dict[str, Any]) -> str:
    k = "" if row["k"] is None else f"k = {row['k']}: "
    recovered = (
        f", CE recovered {row['ce_recovered']:.1%} ({row['ce_clean']:.3f} clean, {row['ce_sae']:.3f} with the SAE, "
        f"{row['ce_zero']:.3f} with {row['ablation']})"
        if row["ce_recovered"] is not None
        else ""
    )
    return (
        f"{k}L0 {row['l0']:.1f}, FVU {row['fvu']:.4f}, dead {row['dead_share']:.1%}{recovered}, "
        f"on {row['n_tokens']:,} tokens"
    )
