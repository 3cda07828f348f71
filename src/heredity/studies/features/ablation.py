"""Remove latents in each member: does what persists also matter alike? Writes `ablation` and `ablation_alike`."""

from heredity.features.ablate import ablate
from heredity.features.ablation import ablation_tables, plan
from heredity.features.evaluate import no_loss
from heredity.features.sae._format import load as load_sae
from heredity.models.load import threads
from heredity.run import Run
from heredity.studies.features.config import Tracked
from heredity.studies.features.family import Say
from heredity.studies.features.jobs import folder, sae_name
from heredity.studies.features.members import load_member
from heredity.studies.features.text import Streams

PAIRS = 40
"""Pairs that persist, of each edge, whose latents are removed one by one on both sides."""

TOKENS = 8_192
"""Held-out tokens per domain: hundreds of latents are removed on each of them."""


def remove(run: Run, config: Tracked, streams: Streams, *, device: str, say: Say) -> None:
    """Ablate the first SAE's latents that the lineage's matches name, on held-out text."""
    if run.done("ablation"):
        return
    run.start_stage()
    planned = plan(run.table("matches"), config.lineage, each=PAIRS, seed=run.seed)
    measured = {}
    for member, sets in planned.sets.items():
        model = load_member(run, member, device=device)
        reason = no_loss(model)
        if reason is not None:
            say(f"{member}: nothing is ablated, for {reason}")
            continue
        with threads(config.threads):
            sae = load_sae(folder(run, sae_name(member, config.sae.variant, 0)))
            measured[member] = ablate(
                sae, model, streams.test, config.sae.site, [one.latents for one in sets],
                tokens_per_domain=min(config.sae.evaluation_tokens, TOKENS),
            )  # fmt: skip
        say(f"{member}: loss without each of {len(sets)} latents and sets of them")
    for name, table in ablation_tables(planned, measured, seed=run.seed).items():
        run.write_table(name, table)
    run.finish_stage("ablation")
