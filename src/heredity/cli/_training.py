"""What `heredity train` does: settings divided between the SAE and its training, a diary, a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from heredity.atomic import write_bytes
from heredity.cli._overrides import overrides
from heredity.errors import ConfigError, HeredityError, MismatchError
from heredity.family import plain
from heredity.features.diary import Diary
from heredity.features.initialise import refuse_unlike
from heredity.features.sae import SAE, Variant, kind_named, load, make, variants
from heredity.features.store import ActivationStore
from heredity.features.train import Training
from heredity.features.train import train as train_sae

_PER_WIDTH = 8  # latents per activation, unless d_sae is set
_LEAST_TOKENS = 2_000_000  # trained on, unless tokens is set


class Job(Struct, frozen=True):
    """What to train on what."""

    stores: tuple[ActivationStore, ...]
    variant: Variant
    training: Training
    start: SAE | None

    @property
    def training_plain(self) -> dict[str, Any]:
        """The training's settings as plain values."""
        values: dict[str, Any] = msgspec.to_builtins(self.training)
        return values


def listed() -> tuple[dict[str, Any], list[str]]:
    """Describe every variant, and the settings of the training: as plain values, and as lines."""
    found: dict[str, Any] = {}
    lines: list[str] = []
    kinds: dict[str, type[msgspec.Struct]] = {name: kind_named(name) for name in variants()}
    kinds["training"] = Training
    for name, kind in kinds.items():
        fields = {
            field.encode_name: None if field.required else field.default
            for field in msgspec.structs.fields(kind)
        }
        about = str(kind.__doc__).strip().splitlines()[0]
        found[name] = {"about": about, "settings": fields}
        shown = (key if value is None else f"{key}={value}" for key, value in fields.items())
        lines += [f"{name}: {about}", f"    {', '.join(shown)}"]
    return found, lines


def plan(
    stores: Sequence[Path], variant: str, start: Path | None, settings: Sequence[str], dtype: str
) -> Job:
    """Open the stores and check every setting before any work; `dtype` gives way to `--set dtype`.

    Raises:
        ConfigError: no such variant or setting, a value out of range, or a start for a crosscoder.
        MismatchError: several stores for a variant of one member, or a start of another kind or shape.
        StoreError: a store is unfinished or damaged.
    """
    opened = tuple(ActivationStore.open(path) for path in stores)
    kind = kind_named(variant)
    joint = "members" in kind.__struct_fields__  # a crosscoder is over several members
    if len(opened) > 1 and not joint:
        raise MismatchError(
            f"{variant} is trained on one store, {len(opened)} are given",
            "give one, or use --variant crosscoder",
        )
    if start is not None and joint:
        raise ConfigError("--init: a crosscoder always begins with random weights", "leave --init out")
    of_training = set(Training.__struct_fields__)
    of_kind = set(kind.__struct_fields__) - ({"members"} if joint else set())
    own: dict[str, Any] = {"d_sae": _PER_WIDTH * opened[0].d}
    rest: dict[str, Any] = {"tokens": max(_LEAST_TOKENS, opened[0].n_tokens), "dtype": dtype}
    for key, value in overrides(settings).items():
        name = key.removeprefix("training.")
        if key in of_kind:
            own[key] = value
        elif name in of_training:
            rest[name] = value
        else:
            raise ConfigError(
                f"--set {key}: no such setting of {variant} or its training",
                f"settings: {', '.join(sorted(of_kind))}; {', '.join(Training.__struct_fields__)}",
            )
    if joint:
        own["members"] = _members(opened)
    if isinstance(rest["tokens"], int):  # a short training revives its dead latents sooner
        rest = {
            "dead_after_tokens": min(100_000, max(1, rest["tokens"] // 10)),
            "resample_every_tokens": min(500_000, max(1, rest["tokens"] // 6)),
        } | rest
    try:
        made = make(variant, own)
        training = msgspec.convert(rest, Training)
    except ConfigError as error:
        raise ConfigError(f"--set for {error.message}", error.hint) from None
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"--set for {variant}: {plain(error)}", "`heredity train --variants` lists the settings"
        ) from None
    first = None if start is None else load(start)
    if first is not None:
        refuse_unlike(first, made, opened[0].d)
    return Job(opened, made, training, first)


def _members(stores: Sequence[ActivationStore]) -> list[str]:
    """Return whose activations a crosscoder's stores are, each member once."""
    names = [store.meta.member for store in stores]
    if len(names) < 2:
        raise ConfigError(
            "a crosscoder is over several members, one STORE is given", "give one for each member"
        )
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ConfigError(
            f"two STOREs are of a member {twice[0]!r}",
            "give each member once; `heredity harvest --name` names it",
        )
    return names


def train(job: Job, out: Path, *, seed: int, device: str, progress: bool) -> tuple[SAE, list[dict[str, Any]]]:
    """Train, or go on from OUT's checkpoint; return the SAE and the rows of its history."""
    diary = Diary(out / "history.json", job.training.steps)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.safetensors"
    asked = {"variant": job.variant, "training": job.training, "seed": seed}
    write_bytes(out / "plan.json", msgspec.json.encode(asked))
    try:
        if "members" in job.variant.__struct_fields__:
            from heredity.features.crosscoding import train_crosscoder

            sae = train_crosscoder(
                job.variant, job.stores, job.training, seed=seed, checkpoint=checkpoint, callback=diary.log,
                device=device, progress=progress,
            )  # fmt: skip
        else:
            sae = train_sae(
                job.variant, job.stores[0], job.training, seed=seed, start=job.start, checkpoint=checkpoint,
                callback=diary.log, device=device, progress=progress,
            )  # fmt: skip
    except (HeredityError, MemoryError):
        if not checkpoint.exists():
            _forget(out)
        raise
    return sae, diary.rows


def _forget(out: Path) -> None:
    """Remove what a training leaves that failed before its first checkpoint: there is nothing to go on with."""
    for name in ("history.json", "plan.json"):
        (out / name).unlink(missing_ok=True)
    if not any(out.iterdir()):
        out.rmdir()


def finish(out: Path, history: list[dict[str, Any]]) -> None:
    """Remove what only an unfinished training needs; the history stays."""
    write_bytes(out / "history.json", msgspec.json.encode(history))
    for name in ("checkpoint.safetensors", "plan.json"):
        (out / name).unlink(missing_ok=True)
