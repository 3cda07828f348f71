"""Second stage: train the base, fine-tune the children, choose the merge's t on validation text, merge, score."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from heredity.errors import HeredityError
from heredity.family import Family, Member
from heredity.merging import merge
from heredity.merging.slerp import Slerp
from heredity.models.evaluate import lm_scores
from heredity.models.load import initialise, load, threads
from heredity.models.pour import pour
from heredity.models.train import LmTraining, save_model, stage_seed, train_lm
from heredity.run import Run
from heredity.studies.features.config import StudyConfig
from heredity.studies.features.distances import members_table
from heredity.studies.features.text import Streams

Say = Callable[[str], None]


def train_members(
    run: Run, config: StudyConfig, streams: Streams, *, device: str, progress: bool, say: Say
) -> None:
    """Train the base and its two fine-tunes, each a Hugging Face folder; write the table `training`."""
    base = config.base
    with threads(config.threads):
        _train(
            run,
            streams,
            base.name,
            base.domains,
            base.training,
            base.max_tokens,
            None,
            base.model,
            device,
            progress,
            say,
        )
        for child in config.children:
            _train(
                run, streams, child.name, child.domains, child.training, child.max_tokens,
                member_path(run, base.name), {}, device, progress, say,
            )  # fmt: skip
    rows = [
        row
        for name in (base.name, *(c.name for c in config.children))
        for row in run.facts(f"train {name}")["history"]
    ]
    run.write_table("training", pl.DataFrame(rows))


def member_path(run: Run, name: str) -> Path:
    """Folder of a member's checkpoint."""
    return run.folder("family") / name


def sweep(run: Run, config: StudyConfig, streams: Streams, *, device: str, say: Say) -> float:
    """Score points of the SLERP on both children's validation text and choose t; write the table `sweep`.

    Each point is poured into one live model; no file is written. A child's gain kept at t is
    (loss of base − loss at t)/(loss of base − loss of child) on the child's own text; the t chosen maximises the
    smaller of the two gains.
    """
    if run.done("sweep"):
        return float(run.facts("sweep")["t"])
    run.start_stage()
    paths = {side: member_path(run, getattr(config.merge, side)) for side in ("left", "right")}
    names = {side: getattr(config.merge, side) for side in ("left", "right")}
    text = {c.name: streams.validation.of(c.domains) for c in config.children}
    steps = config.merge.points - 1
    values = sorted(
        {i / steps for i in range(config.merge.points)}
        | ({config.merge.t} if config.merge.t is not None else set())
    )
    with threads(config.threads):
        base = load(member_path(run, config.base.name), device=device)
        ends = {"base": {child: lm_scores(base, text[child]).summary() for child in text}}
        live = load(paths["left"], device=device)
        ends["child"] = {}
        for side, name in names.items():
            own = live if side == "left" else load(paths[side], device=device)
            ends["child"][name] = lm_scores(own, text[name]).summary()
        for child in text:
            if ends["child"][child][0] >= ends["base"][child][0]:
                raise HeredityError(
                    f"{child}: fine-tuning did not lower the validation loss "
                    f"({ends['base'][child][0]:.3f} → {ends['child'][child][0]:.3f} nats per token)",
                    "train it longer or at another learning rate; without a gain there is no share of it to keep",
                )
        prepared = merge(Slerp(t=0.5), [paths["left"], paths["right"]])
        rows = []
        for t in values:
            pour(prepared.using(Slerp(t=t)).point(), prepared.checkpoints, live)
            for child in names.values():
                loss, accuracy = lm_scores(live, text[child]).summary()
                rows.append(_sweep_row(t, child, loss, accuracy, ends))
            say(f"t = {t:.2f}: " + ", ".join(f"{r['child']} loss {r['loss']:.3f}" for r in rows[-2:]))
    table = pl.DataFrame(rows)
    worst = table.group_by("t").agg(pl.col("gain_kept").min()).sort("t")
    chosen = config.merge.t
    if chosen is None:
        chosen = float(worst.sort("gain_kept", "t", descending=[True, False])["t"][0])
    run.write_table("sweep", table.with_columns(chosen=pl.col("t") == chosen))
    run.finish_stage("sweep", t=chosen)
    say(f"t = {chosen:.2f} keeps the most of the smaller gain")
    return chosen


def merge_children(run: Run, config: StudyConfig, t: float) -> None:
    """Write the SLERP of the two children at t as a checkpoint, and describe the family in family.toml."""
    if run.done("merge"):
        return
    run.start_stage()
    left, right = member_path(run, config.merge.left), member_path(run, config.merge.right)
    merge(Slerp(t=t), [left, right]).save(member_path(run, config.merge.name), overwrite=True)
    describe(run, config).save(run.folder("family") / "family.toml")
    run.finish_stage("merge", t=t)


def describe(run: Run, config: StudyConfig) -> Family:
    """The family as data: members, parents, relations."""
    base = config.base.name
    members = [Member(name=base, path=base)]
    members += [
        Member(
            name=c.name,
            path=c.name,
            parents=(base,),
            relation="finetune",
            labels={"domain": "+".join(c.domains)},
        )
        for c in config.children
    ]
    members.append(
        Member(
            name=config.merge.name,
            path=config.merge.name,
            parents=(config.merge.left, config.merge.right),
            relation="merge",
        )
    )
    return Family(name=config.name, members=tuple(members), root=run.folder("family"))


def score(run: Run, config: StudyConfig, streams: Streams, *, device: str, say: Say) -> None:
    """Score every member on every domain's test text; write the tables `losses` and `members`."""
    if run.done("losses"):
        return
    run.start_stage()
    tables = []
    with threads(config.threads):
        for name in config.members:
            scores = lm_scores(load(member_path(run, name), device=device), streams.test)
            tables.append(
                scores.table(seed=run.seed).select(
                    pl.lit(name).alias("member"), pl.lit("test").alias("split"), pl.all()
                )
            )
            say(
                f"{name}: test loss "
                + ", ".join(f"{d} {v:.3f}" for d, v in tables[-1].select("domain", "loss").iter_rows())
            )
    run.write_table("losses", pl.concat(tables))
    domains = {name: config.domains_of(name) for name in config.members}
    tree = Family.load(run.folder("family") / "family.toml")
    run.write_table("members", members_table(tree, config.root, domains))
    run.finish_stage("losses")


def _train(
    run: Run, streams: Streams, name: str, domains: tuple[str, ...], training: LmTraining, max_tokens: int | None,
    start: Path | None, model_config: dict[str, Any], device: str, progress: bool, say: Say,
) -> None:  # fmt: skip
    stage = f"train {name}"
    if run.done(stage):
        return
    run.start_stage()
    text = streams.train.of(domains)
    if max_tokens is not None:
        text = text.head(max_tokens // len(domains))
    if start is None:
        facts = {
            "vocab_size": _vocabulary(streams),
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": None,
        }
        model = initialise(
            {**facts, **model_config}, seed=stage_seed(run.seed, "weights", name), device=device
        )
    else:
        model = load(start, device=device)
    say(f"{name}: training on {text.n_tokens:,} tokens of {', '.join(domains)}")
    run.drop_metrics(member=name)
    history = train_lm(
        model, text, run.folder("work") / name, config=training, seed=stage_seed(run.seed, "order", name), label=name,
        on_step=lambda row: run.metric(member=name, **row), progress=progress,
    )  # fmt: skip
    save_model(model, streams.tokenizer, member_path(run, name))
    shutil.rmtree(run.folder("work") / name, ignore_errors=True)
    run.finish_stage(stage, history=[{"member": name, **row} for row in history])
    say(f"{name}: loss {history[-1]['loss']:.3f} nats per token on its last training steps")


def _vocabulary(streams: Streams) -> int:
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(streams.tokenizer / "tokenizer.json")).get_vocab_size())


def _sweep_row(
    t: float, child: str, loss: float, accuracy: float, ends: dict[str, dict[str, tuple[float, float]]]
) -> dict[str, Any]:
    base, own = ends["base"][child], ends["child"][child]
    return {
        "t": t, "child": child, "domain": child, "split": "validation", "loss": loss, "accuracy": accuracy,
        "gain_kept": (base[0] - loss) / (base[0] - own[0]),
        "base_loss": base[0], "child_loss": own[0], "base_accuracy": base[1], "child_accuracy": own[1],
    }  # fmt: skip
