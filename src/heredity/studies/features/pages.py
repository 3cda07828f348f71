"""What features are, for the report: the highlights of every edge, and where latents fire."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from heredity.features.codes import Codes
from heredity.features.describe import contexts_table, latents_table
from heredity.features.highlights import highlights_table, interests
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
        .with_columns(interest=pl.Series(interests(one, text)))
        for codes in members.values() for seed, one in enumerate(codes)
    ]))  # fmt: skip
    # Pages and highlights are of each member's first SAE.
    codes = {name: own[0] for name, own in members.items()}
    contexts = [
        contexts_table(own, text, decode, np.flatnonzero(own.firings).tolist(), seed=0)
        for own in codes.values()
    ]
    run.write_table("contexts", pl.concat(contexts))
    explained = {
        name: _telling(codes[name], streams, latents, config.explain) for name, latents in shown.items()
    }
    weights = {name: own[0] for name, own in decoders.items()}
    describe_meaning(
        run, config, streams, codes, weights, shown, explained, decode, device=device, say=say
    )  # fmt: skip


def _telling(codes: Codes, streams: Streams, first: Sequence[int], more: int) -> list[int]:
    """Return some latents and, after them, the most telling of the others that fire."""
    interest = interests(codes, streams.shared)
    order = [
        int(latent) for latent in np.lexsort((np.arange(len(interest)), -interest)) if interest[latent] > 0
    ]
    known = frozenset(first)
    return [*first, *[latent for latent in order if latent not in known][:more]]


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
    """Return what a token adds to a text: " the", "ing", "." – white space and all, whatever the tokenizer."""
    words = tokenizer(streams.tokenizer)
    anchor = words.convert_tokens_to_ids("a")
    before = "" if anchor is None or anchor == words.unk_token_id else str(words.decode([anchor]))
    cache: dict[int, str] = {}

    def decode(token: int) -> str:
        if token not in cache:
            whole = str(words.decode([anchor, token])) if before else ""
            # A word piece, or a token that a decoder strips at the start of a text, shows its space only after another.
            cache[token] = (
                whole[len(before) :] if before and whole.startswith(before) else str(words.decode([token]))
            )
        return cache[token]

    return decode
