"""Fourth stage: follow features along every edge against floor and ceiling, and show what they are."""

import polars as pl

from heredity.features import inheritance
from heredity.features.consensus_edges import ConsensusLineage
from heredity.features.lineage import Lineage
from heredity.features.sae._format import load as load_sae
from heredity.features.tables import edge_tables
from heredity.run import Run
from heredity.studies.features.config import Tracked
from heredity.studies.features.family import Say
from heredity.studies.features.members import family_of
from heredity.studies.features.pages import describe
from heredity.studies.features.text import Streams
from heredity.studies.features.track import codes_of


def follow(run: Run, config: Tracked, streams: Streams, *, device: str, say: Say) -> None:
    """Compare all members over the shared stream; write every table of the lineage."""
    if run.done("lineage"):
        return
    run.start_stage()
    codes = codes_of(run, config, streams, device=device)
    members = {name: [codes[name, seed] for seed in range(config.sae.seeds)] for name in config.members}
    lineage = Lineage(
        members, family_of(run).edges(), streams.shared, config.lineage, seed=run.seed, progress=say
    )
    decoders = {
        name: [
            load_sae(run.folder("saes") / f"{name}-topk-{seed}").W_dec.numpy()
            for seed in range(config.sae.seeds)
        ]
        for name in config.members
    }
    made = edge_tables(lineage, decoders) | inheritance.tables(lineage) | ConsensusLineage(lineage).tables
    for name, table in made.items():
        run.write_table(name, table)
    run.write_table("warnings", pl.DataFrame({"text": lineage.warnings}, schema={"text": pl.String}))
    say("describing features")
    describe(run, config, streams, lineage)
    run.finish_stage("lineage")
