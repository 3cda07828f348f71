"""Settings of `heredity track`, and a family seen as the stages of the feature study see theirs."""

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from heredity.corpora.documents import CorpusSpec
from heredity.errors import ConfigError
from heredity.family import Family, plain
from heredity.features.explain import build as build_explainer
from heredity.features.verdicts import Tracking
from heredity.studies.features.config import Count, Share
from heredity.studies.features.crosscoder_settings import CrosscoderSettings
from heredity.studies.features.saes import Sae, check_saes
from heredity.studies.settings import assigned, over


class TrackText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the family is compared on.

    Attributes:
        corpora: one source per domain; none with a ready stream.
        archives: sha256 of every package archive, by file name.
        stream: folder of a ready token stream instead.
        context: tokens per context of corpora; a stream keeps its own.
        held_out: share of the text, by whole documents, that no SAE is trained on: features are compared there.
        shared_tokens: tokens per domain of the held-out text on which features are compared.
    """

    corpora: tuple[CorpusSpec, ...] = ()
    archives: dict[str, str] = {}
    stream: str | None = None
    context: Count = 128
    held_out: Share = 0.25
    shared_tokens: Count = 100_000


class TrackConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `track`.

    Attributes:
        name: of the family.
        family: its file.
        lineage: how features are matched; the definitions are in docs/features.md.
        crosscoder: one over all members, set against what correlation says; none without.
        highlights: features shown per edge and kind.
        explainers: how they are put into words: the name and the settings of each explainer.
        explain: latents of each member that are explained beside the highlights, the most telling first.
        threads: of the models' passes.
        workers: processes for SAEs; they do not change a number.
    """

    name: str
    family: str
    text: TrackText
    sae: Sae
    lineage: Tracking = Tracking()
    crosscoder: CrosscoderSettings | None = None
    highlights: Count = 10
    explainers: tuple[dict[str, Any], ...] = ({"name": "rules"},)
    explain: Annotated[int, Meta(ge=0)] = 500
    threads: Count = 1
    workers: Count = 1


class Subject(msgspec.Struct, frozen=True):
    """A family with the settings that it is tracked by: what the stages of the feature study take."""

    config: TrackConfig
    family: Family
    domains: tuple[str, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """Names, parents first."""
        done: list[str] = []
        while len(done) < len(self.family.members):
            done += [
                member.name
                for member in self.family.members
                if member.name not in done and all(parent in done for parent in member.parents)
            ]
        return tuple(done)

    @property
    def root(self) -> str:
        """The base, else the first member without a parent."""
        base = self.family.base
        return base.name if base is not None else next(m.name for m in self.family.members if not m.parents)

    @property
    def sae(self) -> Sae:
        """Settings of the SAEs."""
        return self.config.sae

    @property
    def lineage(self) -> Tracking:
        """Settings of the comparisons."""
        return self.config.lineage

    @property
    def crosscoder(self) -> CrosscoderSettings | None:
        """Settings of the crosscoder, if there is one."""
        return self.config.crosscoder

    @property
    def highlights(self) -> int:
        """Features shown per edge and kind."""
        return self.config.highlights

    @property
    def explainers(self) -> tuple[dict[str, Any], ...]:
        """How features are put into words."""
        return self.config.explainers

    @property
    def explain(self) -> int:
        """Latents explained beside the highlights."""
        return self.config.explain

    @property
    def threads(self) -> int:
        """Threads of the models' passes."""
        return self.config.threads

    @property
    def workers(self) -> int:
        """Processes for SAEs."""
        return self.config.workers

    def domains_of(self, member: str) -> tuple[str, ...]:
        """All domains: what a member was trained on is not known."""
        return self.domains


def defaults() -> dict[str, Any]:
    """Return the settings that come with the package, as plain values."""
    source = resources.files("heredity.studies.tracking") / "defaults.toml"
    return tomllib.loads(source.read_text(encoding="utf-8"))


def settings(file: Path | None, given: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Lay a settings file over the defaults, what the command line names over both, and `--set` over all.

    Raises:
        ConfigError: the file is not TOML, or an assignment names no setting.
    """
    values = defaults()
    if file is not None:
        try:
            values = over(values, tomllib.loads(file.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(
                f"{file}: cannot be read ({error.strerror})", "give a TOML file of settings"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{file}: not TOML ({error})", "mend the line that it names") from None
    return assigned(over(values, given), assignments, "`heredity track FAMILY --print-config` lists them")


def build(values: Mapping[str, Any]) -> TrackConfig:
    """Check plain values and make the settings of them.

    Raises:
        ConfigError: an unknown field, a value out of range, no text or two.
    """
    hint = "compare it with `heredity track FAMILY --print-config`"
    try:
        config = msgspec.convert(values, TrackConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings: {plain(error)}", hint) from None
    if bool(config.text.corpora) == (config.text.stream is not None):
        raise ConfigError(
            "settings: text has neither corpora nor a stream, or both - at $.text",
            "name the text with --data: a file, a folder, DOMAIN=SOURCE, or the folder of a token stream",
        )
    if config.sae.mix != "shared":
        raise ConfigError(
            "settings: what members were trained on is not known - at $.sae.mix", 'set sae.mix to "shared"'
        )
    check_saes(config.sae, "settings")
    for number, one in enumerate(config.explainers):
        try:
            build_explainer(one)
        except ConfigError as error:
            raise ConfigError(f"settings: {error.message} - at $.explainers[{number}]", error.hint) from None
    return config


def plain_values(config: TrackConfig) -> dict[str, Any]:
    """Turn settings into plain values, as they stand in a settings file."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    return values
