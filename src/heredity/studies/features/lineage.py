"""Fourth stage: follow features along every edge against floor and ceiling, and show what they are."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Int64
from numpy import ndarray

from heredity.features import inheritance
from heredity.features.consensus_edges import ConsensusLineage
from heredity.features.dictionary import dictionary
from heredity.features.historical import historical_table
from heredity.features.l0 import unequal_l0
from heredity.features.lineage import Lineage
from heredity.features.matching_table import matching_table
from heredity.features.sae import SAE
from heredity.features.sae._format import load as load_sae
from heredity.features.sae._format import save as save_sae
from heredity.features.tables import edge_tables
from heredity.models.load import tokenizer
from heredity.run import Run
from heredity.studies.features.ablation import remove
from heredity.studies.features.config import Tracked
from heredity.studies.features.family import Say
from heredity.studies.features.members import family_of
from heredity.studies.features.pages import describe
from heredity.studies.features.text import Streams
from heredity.studies.features.track import codes_of


def follow(run: Run, config: Tracked, streams: Streams, *, device: str, say: Say) -> None:
    """Compare all members over the shared stream, then ablate what was matched; write every table of it."""
    if not run.done("lineage"):
        _compare(run, config, streams, device=device, say=say)
    remove(run, config, streams, device=device, say=say)


def _compare(run: Run, config: Tracked, streams: Streams, *, device: str, say: Say) -> None:
    run.start_stage()
    codes = codes_of(run, config, streams, device=device)
    members = {name: [codes[name, seed] for seed in range(config.sae.seeds)] for name in config.members}
    lineage = Lineage(
        members, family_of(run).edges(), streams.shared, config.lineage, seed=run.seed, progress=say
    )
    saes = {
        name: [load_sae(run.folder("saes") / f"{name}-topk-{seed}") for seed in range(config.sae.seeds)]
        for name in config.members
    }
    decoders = {name: [sae.W_dec.numpy() for sae in own] for name, own in saes.items()}
    made = edge_tables(lineage, decoders) | {"matchings": matching_table(lineage, decoders)}
    made["historical"] = historical_table(lineage, streams.shared, _strings(streams))
    agreed = ConsensusLineage(lineage)
    made |= inheritance.tables(lineage) | agreed.tables
    save_dictionaries(run, agreed, saes)
    for name, table in made.items():
        run.write_table(name, table)
    warnings = [*lineage.warnings, *_unequal(run)]
    run.write_table("warnings", pl.DataFrame({"text": warnings}, schema={"text": pl.String}))
    say("describing features")
    describe(run, config, streams, lineage, decoders, device=device, say=say)
    run.finish_stage("lineage")


def save_dictionaries(run: Run, agreed: ConsensusLineage, saes: Mapping[str, Sequence[SAE]]) -> None:
    """Write every member's consensus features as an SAE."""
    for member in agreed.members:
        codes = agreed.codes(member)
        if codes is not None:
            one = dictionary(agreed.of(member), saes[member], l0=codes.l0)
            save_sae(one, run.folder("saes") / f"{member}-consensus")


def _strings(streams: Streams) -> Int64[ndarray, " vocabulary"]:
    """Number the strings that tokens stand for; tokens of one string share its number."""
    words = tokenizer(streams.tokenizer)
    known = max(len(words), int(np.asarray(streams.shared.tokens).max()) + 1)
    _, number = np.unique([str(words.decode([token])) for token in range(known)], return_inverse=True)
    return number.astype(np.int64)


def _unequal(run: Run) -> list[str]:
    """Say which SAEs of one member must not be compared, of whatever kind they are."""
    lines: list[str] = []
    if not run.has_table("saes"):
        return lines
    for (member,), rows in run.table("saes").group_by("member", maintain_order=True):
        l0 = {
            f"{kind} {seed}": value for kind, seed, value in rows.select("variant", "seed", "l0").iter_rows()
        }
        lines += [f"SAEs of {member}: {line}" for line in unequal_l0(l0)]
    return lines
