"""Settings of the feature study: frozen structs read from TOML, unknown fields refused with their path."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from heredity.corpora.documents import CorpusSpec
from heredity.errors import ConfigError
from heredity.features.explain import build as build_explainer
from heredity.features.verdicts import Tracking
from heredity.models.train import LmTraining
from heredity.studies.features.crosscoder_settings import CrosscoderSettings
from heredity.studies.features.saes import Sae, check_saes
from heredity.studies.settings import assigned

PRESETS = ("smoke", "small", "wide", "paper")

Share = Annotated[float, Meta(gt=0, lt=1)]
Count = Annotated[int, Meta(ge=1)]


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Common options of every settings struct."""


class Text(_Settings, frozen=True, kw_only=True):
    """What is read and how it is cut.

    Attributes:
        corpora: one source per domain.
        archives: sha256 of every package archive, by file name.
        vocabulary: size of the byte-level BPE trained on the base's training text.
        tokenizer: a ready tokenizer (folder or Hub id) instead of training one.
        context: tokens per context, for training, evaluation and tracking alike.
        validation: share of the text, by whole documents, on which choices are made.
        test: share of the text on which results are reported.
        shared_tokens: tokens per domain of the held-out stream on which features are compared.
        evaluation_tokens: tokens per domain for the losses and the merge's sweep.
    """

    corpora: tuple[CorpusSpec, ...]
    archives: dict[str, str] = {}
    vocabulary: Count = 4096
    tokenizer: str | None = None
    context: Count = 128
    validation: Share = 0.10
    test: Share = 0.15
    shared_tokens: Count = 100_000
    evaluation_tokens: Count = 50_000


class Base(_Settings, frozen=True, kw_only=True):
    """The base model: a transformers configuration and its training."""

    name: str
    domains: tuple[str, ...]
    model: dict[str, Any]
    training: LmTraining
    max_tokens: int | None = None


class Child(_Settings, frozen=True, kw_only=True):
    """A fine-tune of the base on one or more domains."""

    name: str
    domains: tuple[str, ...]
    training: LmTraining
    max_tokens: int | None = None


class Merge(_Settings, frozen=True, kw_only=True):
    """The SLERP of two children; its t is chosen from a sweep on both validation sets.

    Attributes:
        t: skip the choice and use this t (the sweep is still made and drawn).
    """

    name: str
    left: str
    right: str
    points: Annotated[int, Meta(ge=2)] = 11
    t: Annotated[float, Meta(ge=0, le=1)] | None = None


class Tracked(Protocol):
    """What the stages that follow features know of a run: the settings that `demo` and `track` share."""

    @property
    def members(self) -> tuple[str, ...]: ...

    @property
    def root(self) -> str: ...

    @property
    def sae(self) -> Sae: ...

    @property
    def lineage(self) -> Tracking: ...

    @property
    def crosscoder(self) -> CrosscoderSettings | None: ...

    @property
    def highlights(self) -> int: ...

    @property
    def explainers(self) -> tuple[dict[str, Any], ...]: ...

    @property
    def explain(self) -> int: ...

    @property
    def threads(self) -> int: ...

    @property
    def workers(self) -> int: ...

    def domains_of(self, member: str) -> tuple[str, ...]:
        """Domains that a member has been trained on, as far as that is known."""
        ...


class StudyConfig(_Settings, frozen=True, kw_only=True):
    """The whole study.

    Attributes:
        name: of the family.
        lineage: how features are matched; the definitions are in docs/features.md.
        crosscoder: one over all members, set against what correlation says; none without.
        highlights: features shown per edge and kind.
        explainers: how they are put into words: the name and the settings of each explainer.
        explain: latents of each member that are explained beside the highlights, the most telling first.
        threads: of the language models' training, recorded because sums depend on it.
        workers: processes for SAEs; they do not change a number.
    """

    name: str
    text: Text
    base: Base
    children: tuple[Child, Child]
    merge: Merge
    sae: Sae
    lineage: Tracking = Tracking()
    crosscoder: CrosscoderSettings | None = None
    highlights: Count = 10
    explainers: tuple[dict[str, Any], ...] = ({"name": "rules"},)
    explain: Annotated[int, Meta(ge=0)] = 500
    threads: Count = 2
    workers: Count = 2

    def domains_of(self, member: str) -> tuple[str, ...]:
        """Domains that a member has been trained on, itself or through its parents, in the order of the corpora."""
        seen = set(self.base.domains)
        for child in self.children:
            if member in (child.name, self.merge.name):
                seen |= set(child.domains)
        return tuple(c.domain for c in self.text.corpora if c.domain in seen)

    @property
    def members(self) -> tuple[str, str, str, str]:
        """Names of all members: base, the two children, the merge."""
        return (self.base.name, self.children[0].name, self.children[1].name, self.merge.name)

    @property
    def root(self) -> str:
        """Name of the member that has no parent."""
        return self.base.name


def preset(name: str) -> StudyConfig:
    """Load a preset that comes with the package: smoke, small, wide or paper."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}", f"presets are {', '.join(PRESETS)}")
    source = resources.files("heredity.studies.features") / "presets" / f"{name}.toml"
    return parse(source.read_text(encoding="utf-8"), f"preset {name}")


def read(path: Path) -> StudyConfig:
    """Load a study file.

    Raises:
        ConfigError: it is not TOML, has an unknown field or a value out of range; the message has the path in it.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})", "give a TOML study file") from None


def parse(text: str, name: str) -> StudyConfig:
    """Parse and check a study file's text; `name` is used in messages."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML ({error})", "mend the line that it names") from None
    return build(values, name)


def build(values: dict[str, Any], name: str) -> StudyConfig:
    """Check plain values and make the settings of them."""
    try:
        config = msgspec.convert(values, StudyConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{name}: {_lower(str(error))}", "compare it with `heredity demo --print-config`"
        ) from None
    _check(config, name)
    return config


def with_values(config: StudyConfig, assignments: tuple[str, ...]) -> StudyConfig:
    """Apply `--set path=value` to settings: `sae.k=16`, `text.corpora.0.max_bytes=100000`.

    Raises:
        ConfigError: no such path, or a value of another type.
    """
    hint = "`heredity demo --print-config` lists them"
    return build(assigned(msgspec.to_builtins(config), assignments, hint), "--set")


def plain(config: StudyConfig) -> dict[str, Any]:
    """Turn settings into plain values, as they stand in a study file."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    return values


def _check(config: StudyConfig, name: str) -> None:
    domains = [c.domain for c in config.text.corpora]
    doubled = sorted({d for d in domains if domains.count(d) > 1})
    if doubled:
        raise ConfigError(
            f"{name}: two corpora for domain {doubled[0]!r} - at $.text.corpora", "give each its own name"
        )
    if len({*config.members}) != 4:
        raise ConfigError(
            f"{name}: members must have four different names, not {', '.join(config.members)}", "rename one"
        )
    for where, member in (
        ("base", config.base),
        ("children[0]", config.children[0]),
        ("children[1]", config.children[1]),
    ):
        for domain in member.domains:
            if domain not in domains:
                raise ConfigError(
                    f"{name}: no corpus for domain {domain!r} - at $.{where}.domains",
                    f"corpora are {', '.join(domains)}",
                )
    for where, child in (("left", config.merge.left), ("right", config.merge.right)):
        if child not in (config.children[0].name, config.children[1].name):
            raise ConfigError(
                f"{name}: {child!r} is not a child - at $.merge.{where}", "name one of the two children"
            )
    if config.merge.left == config.merge.right:
        raise ConfigError(
            f"{name}: the merge's two sides are both {config.merge.left!r} - at $.merge", "name both children"
        )
    check_saes(config.sae, name)
    for number, settings in enumerate(config.explainers):
        try:
            build_explainer(settings)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error.message} - at $.explainers[{number}]", error.hint) from None
    if config.text.validation + config.text.test >= 1:
        raise ConfigError(
            f"{name}: validation and test leave no text to train on - at $.text", "lower the two shares"
        )


def _lower(text: str) -> str:
    text = text.replace("Object contains unknown field", "unknown field").replace("`", "'")
    return text[:1].lower() + text[1:]
