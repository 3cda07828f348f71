"""Settings of the study of regions, and the presets that come with it.

Two kinds of family: an encoder fine-tuned on labelled sets (`encoder`), or one-layer language models fine-tuned on
domains of text (`lm`), for those who have neither an encoder nor labelled sets. What lies outside (Ex) is fixed here,
before any run: `region.samples` random steps from the base, shaped like an initialisation, as long as the members'
mean task vector.
"""

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from heredity.corpora.documents import CorpusSpec
from heredity.corpora.labelled import Fields
from heredity.errors import ConfigError
from heredity.family import plain as said
from heredity.models.train import LmTraining
from heredity.models.tuning import FineTuning
from heredity.regions.edges import EdgeSettings
from heredity.regions.region import RegionSettings
from heredity.regions.start import StartSettings
from heredity.studies.settings import assigned

Count = Annotated[int, Meta(ge=1)]
PRESETS = ("small", "embedded")


class LabelledSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A set of labelled texts.

    Attributes:
        name: of the set; NAME.train.jsonl in the folder of the data unless `ref` says otherwise.
        family: the task it belongs to.
        ref: another place: a path, or `hf:NAME`.
        fields: names of its columns.
        control: a set with the same texts and other labels; its models are compared with this one's, no more.
        control_only: train models on it for that comparison alone.
    """

    name: str
    family: str
    ref: str | None = None
    fields: Fields = Fields()
    control: str | None = None
    control_only: bool = False


class EncoderFamily(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An encoder and how it is fine-tuned on every set.

    Attributes:
        model: folder, Hub id or `archive:FILE#FOLDER`.
        layers: keep the first so many; the base is cut alike.
        rows: training rows of each fine-tune.
        tuning: of the members.
        dtype: of every forward pass; weights stay float32.
        sets: labelled sets.
        probe_rows: training, validation and test rows of the generalised loss.
    """

    model: str
    layers: Count | None = None
    rows: Count = 4000
    tuning: FineTuning = FineTuning()
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    sets: tuple[LabelledSet, ...] = ()
    probe_rows: tuple[Count, Count, Count] = (400, 200, 400)


class LmFamily(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A small language model, its base text, and the domains it is fine-tuned on.

    Attributes:
        model: a transformers configuration.
        vocabulary: of the byte-level BPE, trained on the base's text.
        context: tokens per context.
        base_domains: what the base is trained on.
        base_tokens: training tokens of the base, over its domains.
        tokens: training tokens of a member.
        evaluation_tokens: held-out tokens of each domain.
        pretraining: of the base; `epochs` follows from the tokens.
        finetuning: of the members.
        kinds: the family of each domain that members are trained on.
        corpora: a source for each domain.
        archives: sha256 of package archives, by file name.
    """

    model: dict[str, Any]
    vocabulary: Count
    context: Count
    base_domains: tuple[str, ...]
    base_tokens: Count
    tokens: Count
    evaluation_tokens: Count
    pretraining: LmTraining
    finetuning: LmTraining
    kinds: dict[str, str]
    corpora: tuple[CorpusSpec, ...]
    archives: dict[str, str]


class Walks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Interpolation between members.

    Attributes:
        pairs: of members of one set, of two sets of one family, and of two families, so many of each.
        steps: places from end to end.
    """

    pairs: Count = 6
    steps: Annotated[int, Meta(ge=3)] = 11


class Centre(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The centre as a start, against the pretrained model, on every held-out set.

    Attributes:
        seeds: fine-tunes of each start on each set.
        rows: training rows of the few-shot fine-tunes, drawn by the seed.
        few: how all sets are fine-tuned on them.
        full: how `full_sets` are fine-tuned on them beside.
        all_rows: how `full_sets` are fine-tuned on all training rows.
        full_sets: names of the sets.
        tokens: few-shot training tokens of language models, one fine-tune for each number.
        lm: how language models are fine-tuned on them.
    """

    seeds: Count = 3
    rows: Count = 1000
    few: FineTuning = FineTuning(method="bitfit")
    full: FineTuning | None = None
    all_rows: FineTuning | None = None
    full_sets: tuple[str, ...] = ()
    tokens: tuple[Count, ...] = ()
    lm: LmTraining | None = None


class Starts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`heredity start` against trying all candidates.

    Attributes:
        sets: held-out sets.
        rows: training rows.
        seeds: fine-tunes of each candidate.
        members_per_set: members of each other set that are candidates.
        tuning: the full budget.
        search: settings of the search.
    """

    sets: tuple[str, ...] = ()
    rows: Count = 1000
    seeds: Count = 1
    members_per_set: Count = 1
    tuning: FineTuning = FineTuning(method="bitfit")
    search: StartSettings = StartSettings()


class RegionsStudy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the study.

    Attributes:
        seeds: members of each set.
        threads: of torch; the last bits of the weights depend on it.
        permutations: shuffles of every null.
        encoder: an encoder and labelled sets, or
        lm: a language model and domains of text.
        walks: interpolation.
        region: inside against outside.
        edges: past the ends, and from the centre.
        centre: the centre as a start.
        starts: the search for a start, or None.
    """

    seeds: Annotated[int, Meta(ge=2)] = 3
    threads: Count = 2
    permutations: Count = 1000
    encoder: EncoderFamily | None = None
    lm: LmFamily | None = None
    walks: Walks = Walks()
    region: RegionSettings = RegionSettings()
    edges: EdgeSettings = EdgeSettings()
    centre: Centre = Centre()
    starts: Starts | None = None

    @property
    def groups(self) -> dict[str, str]:
        """Family of each set (or domain) that members are trained on, controls left out."""
        if self.encoder is not None:
            return {s.name: s.family for s in self.encoder.sets if not s.control_only}
        return dict(self.lm.kinds) if self.lm is not None else {}

    @property
    def controls(self) -> dict[str, str]:
        """Set → set with the same texts and other labels, both ways round."""
        if self.encoder is None:
            return {}
        pairs = [(s.name, s.control) for s in self.encoder.sets if s.control]
        return dict(pairs) | {b: a for a, b in pairs}


def preset(name: str) -> dict[str, Any]:
    """Return the plain values of a preset.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}", f"presets: {', '.join(PRESETS)}")
    file = resources.files("heredity.studies.regions.presets").joinpath(f"{name}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def read(path: Path) -> dict[str, Any]:
    """Return the plain values of a study file.

    Raises:
        ConfigError: it cannot be read as TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", "check the path") from None
    except ValueError as error:
        raise ConfigError(
            f"{path}: not TOML ({error})", "start from `heredity study regions --print-config`"
        ) from None


def settings(values: Mapping[str, Any], assignments: Sequence[str] = ()) -> RegionsStudy:
    """Make settings of plain values, with some changed: `encoder.layers=2`.

    Raises:
        ConfigError: an unknown field, a value of a wrong kind, or settings that contradict each other.
    """
    full: dict[str, Any] = msgspec.to_builtins(_converted(values))
    config = _converted(assigned(full, assignments, "--print-config shows the settings"))
    if (config.encoder is None) == (config.lm is None):
        raise ConfigError("a study has [encoder] or [lm]", "give one of them")
    if len(config.groups) < 3:
        raise ConfigError(f"{len(config.groups)} sets to compare", "name three sets or more")
    known = config.groups
    for name in (*config.centre.full_sets, *(config.starts.sets if config.starts else ())):
        if name not in known:
            raise ConfigError(f"{name!r} is not a set of the study", f"sets: {', '.join(known)}")
    if config.lm is not None and (config.centre.lm is None or not config.centre.tokens):
        raise ConfigError("centre.lm and centre.tokens say how language models are fine-tuned", "set both")
    return config


def plain(config: RegionsStudy) -> dict[str, Any]:
    """Return settings as plain values, for the record of a run."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    return values


def _converted(values: Mapping[str, Any]) -> RegionsStudy:
    try:
        return msgspec.convert(dict(values), RegionsStudy)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"study: {said(error)}", "start from `heredity study regions --print-config`"
        ) from None
