"""What `heredity track` is asked: the family, the settings, and what they will cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from heredity.corpora.given import corpora
from heredity.corpora.stream import TokenStream
from heredity.errors import ConfigError
from heredity.family import Family
from heredity.report.formats import duration, size
from heredity.studies.features.crosscoder import check_related
from heredity.studies.features.crosscoder_settings import CrosscoderSettings
from heredity.studies.features.saes import Sae
from heredity.studies.features.sizes import Sizes, matrix_speed
from heredity.studies.tracking import config as settings_of
from heredity.studies.tracking import kin
from heredity.studies.tracking.config import TrackConfig


def plan(
    file: Path, data: Sequence[str], site: str | None, config: Path | None, assignments: Sequence[str], *,
    init: str | None = None, crosscoder: bool = False,
) -> tuple[Family, TrackConfig, Path]:  # fmt: skip
    """Read the family and the settings, and check them against each other before any work.

    Returns:
        the family with local paths; the settings; the folder that relative paths of text start from.

    Raises:
        ConfigError: a setting or a site that does not exist, no text, a family without edges, or a setting that takes
            back what an option asks for.
        MismatchError: members of different tokenizers or widths, or not related though a crosscoder is asked for.
    """
    family = Family.load(file)
    given: dict[str, Any] = {"name": family.name, "family": str(file)}
    if data:
        given["text"] = _text(data)
    asked = {"site": site, "init": init}
    given["sae"] = {name: value for name, value in asked.items() if value is not None}
    if crosscoder:
        given["crosscoder"] = {}
    values = settings_of.settings(config, given, assignments)
    local = kin.resolved(family)
    kin.check_tokenizers(local)
    values["sae"]["site"] = kin.check_site(local, values["sae"].get("site"))
    chosen = settings_of.build(values)
    check_asked(chosen.sae, chosen.crosscoder, init=init, crosscoder=crosscoder)
    if chosen.crosscoder is not None:
        check_related(local)
    root = Path.cwd() if data or config is None else config.parent
    return local, chosen, root


def check_asked(sae: Sae, joint: CrosscoderSettings | None, *, init: str | None, crosscoder: bool) -> None:
    """Check that no `--set` takes back what an option asks for.

    Raises:
        ConfigError: one does.
    """
    if init is not None and sae.init != init:
        raise ConfigError(f"--init {init}, and --set sae.init={sae.init}", "leave one of them out")
    if crosscoder and joint is None:
        raise ConfigError("--crosscoder, and --set crosscoder= takes it out", "leave one of them out")


def domains(config: TrackConfig, root: Path) -> int:
    """Return how many domains the text has."""
    if config.text.stream is None:
        return len(config.text.corpora)
    return len(TokenStream.open(root / config.text.stream).domains)


def shown(sizes: Sizes, sae: Sae, name: str) -> tuple[dict[str, Any], list[str]]:
    """Describe an estimate: as plain values, and as lines for people."""
    speed = matrix_speed()
    seconds = sizes.seconds(speed)
    facts: dict[str, Any] = msgspec.to_builtins(sizes)
    del facts["held"]
    facts |= {
        "disk_bytes": sizes.disk_bytes, "site": sae.site, "latents": sae.latents, "bytes": sizes.bytes,
        "flops_per_second": speed, "core_seconds": seconds,
    }  # fmt: skip
    lines = [
        f"family     {name}: {sizes.members} members, {sizes.edges} edges",
        f"site       {sae.site}, {sizes.d:,} wide",
        f"SAEs       {sizes.saes}, {sae.variant}: {sizes.d:,} → {sae.latents:,} latents, "
        f"{f'k = {sae.k}' if sae.has_k else f'L0 guessed as {sae.k}'}, on {sae.tokens:,} tokens each",
        *(
            [f"crosscoder {sizes.members} × {sizes.d:,} → {sizes.crosscoder:,} latents"]
            if sizes.crosscoder
            else []
        ),
        f"text       at most {sizes.train_tokens:,} tokens to train on, {sizes.shared_tokens:,} to compare on",
        *(f"disk       {size(nbytes)} of {what}" for what, nbytes in sizes.disk_bytes.items()),
        f"           {size(sizes.bytes)} at the largest",
        f"work       {sizes.harvest_flops:.2g} FLOP in the models, {sizes.train_flops:.2g} in the SAEs, "
        f"{sizes.firing_pairs:.2g} pairs of firings",
        f"time       about {duration(seconds)} of one core, guessed from {speed / 1e9:.0f} GFLOP/s measured here",
    ]
    return facts, [line.replace("\u00a0", " ") for line in lines]


def _text(data: Sequence[str]) -> dict[str, Any]:
    """Return the text's settings: a ready stream, or corpora."""
    streams = [one for one in data if (Path(one) / "tokens.bin").is_file()]
    if streams and len(data) > 1:
        raise ConfigError(f"{streams[0]}: is a token stream, beside other text", "give one stream, or text")
    if streams:
        return {"stream": streams[0]}
    specs, archives = corpora(data)
    return {"corpora": msgspec.to_builtins(specs), "archives": archives}
