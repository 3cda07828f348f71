"""Fourth stage: follow features along every edge against floor and ceiling, and show what they are."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Int64
from numpy import ndarray

from heredity.features import inheritance
from heredity.features.codes import Codes
from heredity.features.consensus_edges import ConsensusLineage
from heredity.features.dictionary import dictionary
from heredity.features.historical import historical_table
from heredity.features.identity import identity_tables
from heredity.features.l0 import unequal_l0
from heredity.features.lineage import Lineage
from heredity.features.matching_table import matching_table
from heredity.features.sae import SAE
from heredity.features.sae._format import load as load_sae
from heredity.features.sae._format import save as save_sae
from heredity.features.tables import edge_tables
from heredity.models.load import tokenizer
from heredity.run import Run
from heredity.studies.features import crosscoder
from heredity.studies.features.ablation import remove
from heredity.studies.features.config import Tracked
from heredity.studies.features.family import Say
from heredity.studies.features.jobs import again, controlled, folder, sae_name, starts
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
    warm, variant = config.sae.init == "parent", config.sae.variant
    members = {name: codes[name, variant] for name in config.members}
    lineage = Lineage(
        members, family_of(run).edges(), streams.shared, config.lineage, seed=run.seed, shared_start=warm,
        progress=say,
    )  # fmt: skip
    saes = {name: _saes(run, config, name, variant) for name in config.members}
    decoders = {name: [sae.W_dec.numpy() for sae in own] for name, own in saes.items()}
    made = edge_tables(lineage, decoders) | {"matchings": matching_table(lineage, decoders)}
    made["historical"] = historical_table(lineage, streams.shared, _strings(streams))
    agreed = ConsensusLineage(lineage)
    made |= inheritance.tables(lineage) | agreed.tables | crosscoder.edges(run, config, lineage)
    if warm:
        made |= _identity(run, config, lineage, decoders, codes)
    unsaved = save_dictionaries(run, agreed, saes)
    for name, table in made.items():
        run.write_table(name, table)
    run.write_table("warnings", _warnings(run, config, lineage, unsaved))
    say("describing features")
    describe(run, config, streams, lineage, decoders, device=device, say=say)
    run.finish_stage("lineage")


def _saes(run: Run, config: Tracked, member: str, variant: str) -> list[SAE]:
    return [load_sae(folder(run, sae_name(member, variant, seed))) for seed in range(config.sae.seeds)]


def _identity(
    run: Run,
    config: Tracked,
    lineage: Lineage,
    decoders: Mapping[str, Sequence[ndarray]],
    codes: Mapping[tuple[str, str], list[Codes]],
) -> dict[str, pl.DataFrame]:
    """Say what became of each latent along edges whose SAEs go back to one start."""
    on = again(config.sae.variant)
    known = controlled(run, config)
    weights = {name: [sae.W_dec.numpy() for sae in _saes(run, config, name, on)] for name in known}
    begun = starts(run, config)
    return identity_tables(lineage, decoders, begun, {name: codes[name, on] for name in known}, weights)


def save_dictionaries(run: Run, agreed: ConsensusLineage, saes: Mapping[str, Sequence[SAE]]) -> list[str]:
    """Write every member's consensus features as an SAE; return what is to be said of those that cannot be."""
    unsaved: list[str] = []
    for member in agreed.members:
        codes = agreed.codes(member)
        if codes is None:
            continue
        kind = saes[member][0].variant
        if not kind.has_b_enc:  # gated: all else about its consensus is known
            unsaved.append(
                f"{member}: its consensus features are not saved as an SAE, {type(kind).__name__} SAEs cannot be"
            )
            continue
        one = dictionary(agreed.of(member), saes[member], l0=codes.l0)
        save_sae(one, run.folder("saes") / f"{member}-consensus")
    return unsaved


def _strings(streams: Streams) -> Int64[ndarray, " vocabulary"]:
    """Number the strings that tokens stand for; tokens of one string share its number."""
    words = tokenizer(streams.tokenizer)
    known = max(len(words), int(np.asarray(streams.shared.tokens).max()) + 1)
    _, number = np.unique([str(words.decode([token])) for token in range(known)], return_inverse=True)
    return number.astype(np.int64)


def _warnings(run: Run, config: Tracked, lineage: Lineage, unsaved: Sequence[str]) -> pl.DataFrame:
    """Return the table `warnings`: text, and the anchor of the report's section that it stands in beside the limits."""
    uneven = lineage.uneven()
    rows: list[tuple[str, str | None]] = (
        [(_SHARED_START, "persistence")] if config.sae.init == "parent" else []
    )
    rows += [(line, "persistence" if line in uneven else None) for line in lineage.warnings]
    rows += [(line, "crosscoder") for line in crosscoder.unequal(run, config, lineage)]
    rows += [(line, None) for line in [*_unequal(run), *unsaved]]
    return pl.DataFrame(rows, schema={"text": pl.String, "section": pl.String}, orient="row")


_SHARED_START = (
    "Each child's SAEs begin at its parent's (sae.init = parent): two SAEs of one seed share a start, and that they "
    "agree is no evidence of inheritance. Shares, ceilings and heritability are therefore of pairs of different seeds "
    "only. These, too, are more lenient than SAEs from random weights, for a child's SAE begins where its parent's "
    "features are; and descendants' SAEs have been trained for longer, so that their ceilings are higher. Universal "
    "features, highlights, the pages of features, the pairs that are ablated, the released code's rule and the "
    "verdicts on consensus features rest on SAEs that share a start"
)


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
