"""What features are, for the report: the highlights of every edge, and where latents fire."""

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from heredity.features.describe import contexts_table, latents_table
from heredity.features.highlights import highlights_table
from heredity.features.lineage import Lineage
from heredity.models.load import tokenizer
from heredity.run import Run
from heredity.studies.features.config import Tracked
from heredity.studies.features.family import Say
from heredity.studies.features.meaning import Decoder, describe_meaning
from heredity.studies.features.text import Streams


def describe(
    run: Run,
    config: Tracked,
    streams: Streams,
    lineage: Lineage,
    decoders: Mapping[str, Sequence[Decoder]],
    *,
    device: str,
    say: Say,
) -> None:
    """Choose the highlights and describe latents; write `highlights`, `latents`, `contexts` and what they mean."""
    decode = _decoder(streams)
    members = lineage.members
    text, highlights = streams.shared, highlights_table(lineage, streams.shared, each=config.highlights)
    shown: dict[str, list[int]] = {name: [] for name in config.members}
    for member, latent in _shown(highlights):
        if latent not in shown[member]:
            shown[member].append(latent)
    run.write_table("highlights", highlights)
    run.write_table("latents", pl.concat([
        latents_table(one, text, decode, seed=seed, min_firings=config.lineage.min_firings)
        for codes in members.values() for seed, one in enumerate(codes)
    ]))  # fmt: skip
    # Highlights speak of each member's first SAE.
    first = [(members[name][0], latents) for name, latents in shown.items() if latents]
    contexts = [contexts_table(codes, text, decode, latents, seed=0) for codes, latents in first]
    run.write_table("contexts", pl.concat(contexts))
    codes = {name: own[0] for name, own in members.items()}
    weights = {name: own[0] for name, own in decoders.items()}
    describe_meaning(run, config, streams, codes, weights, shown, decode, device=device, say=say)


def _shown(highlights: pl.DataFrame) -> list[tuple[str, int]]:
    """List every latent that a highlight names, with its partner, in the highlights' order."""
    pairs: list[tuple[str, int]] = []
    for member, latent, partner, other in highlights.select(
        "member", "latent", "partner_member", "partner_latent"
    ).iter_rows():
        pairs.append((member, latent))
        if partner is not None and other is not None:
            pairs.append((partner, other))
    return pairs


def _decoder(streams: Streams) -> Callable[[int], str]:
    words = tokenizer(streams.tokenizer)
    cache: dict[int, str] = {}

    def decode(token: int) -> str:
        if token not in cache:
            cache[token] = str(words.decode([token]))
        return cache[token]

    return decode
