"""What the latents of each member's first SAE mean: where they fire, what they do to the next token, and in words."""

from collections.abc import Mapping, Sequence

import polars as pl
from jaxtyping import Float32
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.features.codes import Codes
from heredity.features.describe import Decode
from heredity.features.effects import effects_table, measured_effects
from heredity.features.explain import build, explanations_summary, explanations_table
from heredity.features.latent_statistics import latent_statistics
from heredity.features.readout import readout
from heredity.models.load import threads, tokenizer
from heredity.run import Run
from heredity.studies.features.config import Tracked
from heredity.studies.features.family import Say
from heredity.studies.features.members import load_member
from heredity.studies.features.text import Streams

Decoder = Float32[ndarray, "latents d_site"]


def describe_meaning(
    run: Run,
    config: Tracked,
    streams: Streams,
    codes: Mapping[str, Codes],
    decoders: Mapping[str, Decoder],
    shown: Mapping[str, Sequence[int]],
    explained: Mapping[str, Sequence[int]],
    decode: Decode,
    *,
    device: str,
    say: Say,
) -> None:
    """Write `latent_statistics`, `effects`, `measured_effects`, `explanations` and `explanation_summary`.

    Args:
        run, config, streams: of the study.
        codes: of each member's first SAE.
        decoders: W_dec of the same SAEs.
        shown: the latents of each member whose effects are measured; all have their statistics and direct effects.
        explained: the latents of each member that are put into words, the most wanted first.
        decode: text of a token.
        device: torch device of the models.
        say: takes one line of progress at a time.
    """
    statistics = [latent_statistics(own, streams.shared, decode, seed=0) for own in codes.values()]
    run.write_table("latent_statistics", pl.concat(statistics))
    _effects(run, config, streams, codes, decoders, shown, decode, device=device, say=say)
    explainers = [build(settings) for settings in config.explainers]
    folder = run.folder("explanations")
    tables = [
        explanations_table(
            codes[name], streams.shared, decode, latents, seed=run.seed, explainers=explainers, folder=folder
        )
        for name, latents in explained.items()
        if latents
    ]
    if tables and explainers:
        run.write_table("explanations", pl.concat(tables))
        summary = explanations_summary(pl.concat(tables))
        run.write_table("explanation_summary", summary)
        for row in summary.iter_rows(named=True):
            if row["calls"]:
                say(
                    f"{row['member']}: {row['explained']} of {row['latents']} latents explained by "
                    f"{row['explainer']}, {row['calls']:,} answers, {row['prompt_tokens']:,} tokens asked and "
                    f"{row['completion_tokens']:,} answered"
                )


def _effects(
    run: Run,
    config: Tracked,
    streams: Streams,
    codes: Mapping[str, Codes],
    decoders: Mapping[str, Decoder],
    shown: Mapping[str, Sequence[int]],
    decode: Decode,
    *,
    device: str,
    say: Say,
) -> None:
    """Write the next-token effects of every member, when the site has any."""
    vocabulary = len(tokenizer(streams.tokenizer))
    site, text = config.sae.site, streams.shared
    effects, measured = [], []
    with threads(config.threads):
        for name, own in codes.items():
            model = load_member(run, name, device=device)
            try:
                way = readout(model, site)
            except ConfigError as error:
                say(f"no next-token effects: {error.message}")
                return
            weights, latents = decoders[name], shown.get(name, ())
            options = {"seed": run.seed, "vocabulary": vocabulary}
            effects.append(effects_table(way, weights, own, text, decode, **options))
            measured.append(measured_effects(model, way, site, weights, own, text, latents, **options))
    run.write_table("effects", pl.concat(effects))
    run.write_table("measured_effects", pl.concat(measured))
