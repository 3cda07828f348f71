"""Fourth stage: follow features along every edge against floor and ceiling, and show what they are."""

from collections.abc import Callable

import polars as pl

from heredity.family import Family
from heredity.features import inheritance
from heredity.features.codes import Codes
from heredity.features.describe import contexts_table, latents_table
from heredity.features.explain import explanations_table
from heredity.features.highlights import highlights_table
from heredity.features.lineage import Lineage
from heredity.features.sae._format import load as load_sae
from heredity.features.tables import edge_tables
from heredity.models.load import tokenizer
from heredity.run import Run
from heredity.studies.features.config import StudyConfig
from heredity.studies.features.family import Say
from heredity.studies.features.text import Streams
from heredity.studies.features.track import codes_of


def follow(run: Run, config: StudyConfig, streams: Streams, *, device: str, say: Say) -> None:
    """Compare all members over the shared stream; write every table of the lineage."""
    if run.done("lineage"):
        return
    run.start_stage()
    codes = codes_of(run, config, streams, device=device)
    members = {name: [codes[name, seed] for seed in range(config.sae.seeds)] for name in config.members}
    edges = Family.load(run.folder("family") / "family.toml").edges()
    lineage = Lineage(members, edges, streams.shared, config.lineage, seed=run.seed, progress=say)
    decoders = {
        name: [
            load_sae(run.folder("saes") / f"{name}-topk-{seed}").W_dec.numpy()
            for seed in range(config.sae.seeds)
        ]
        for name in config.members
    }
    for name, table in (edge_tables(lineage, decoders) | inheritance.tables(lineage)).items():
        run.write_table(name, table)
    run.write_table("warnings", pl.DataFrame({"text": lineage.warnings}, schema={"text": pl.String}))
    say("describing features")
    _describe(run, config, streams, lineage, members)
    run.finish_stage("lineage")


def _describe(
    run: Run, config: StudyConfig, streams: Streams, lineage: Lineage, members: dict[str, list[Codes]]
) -> None:
    decode = _decoder(streams)
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
    rules = [explanations_table(codes, text, decode, latents, seed=run.seed) for codes, latents in first]
    run.write_table("explanations", pl.concat(rules))


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
