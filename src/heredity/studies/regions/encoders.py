"""The family of the study: one encoder, fine-tuned on every labelled set with several seeds; each run resumes."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec

from heredity.atomic import replacing_folder
from heredity.checkpoint import Checkpoint
from heredity.corpora.labelled import LabelledTask, read_task
from heredity.errors import ConfigError
from heredity.family import Family, Member
from heredity.models.batches import EncodedTask, context_of, encode_task
from heredity.models.classifier import load_encoder, save_encoder
from heredity.models.finetune import finetune
from heredity.models.load import threads, tokenizer
from heredity.models.tuning import FineTuning
from heredity.regions.ground import Ground
from heredity.regions.metrics import Generalised, Metric
from heredity.regions.tuned import AfterTuning
from heredity.run import Run
from heredity.studies.regions.config import EncoderFamily, LabelledSet, RegionsStudy
from heredity.studies.regions.material import Material, Regime, several

Say = Callable[[str], None]
_HELD_OUT = 300
"""Validation rows: enough to choose a strength and to stop early, cheap enough to be measured every epoch."""


def train_encoders(
    run: Run, config: RegionsStudy, settings: EncoderFamily, root: Path, *, device: str, jobs: int, say: Say
) -> Material:
    """Write the base and every member that is not there yet, and open the ground.

    Raises:
        CorpusError: a set cannot be read.
    """
    folder = run.folder("models")
    base = _base(folder, settings, device)
    tasks = {s.name: _task(s, root) for s in settings.sets}
    todo = [
        _Item(
            base=str(base), task=tasks[labelled.name].sample(train=settings.rows, validation=_HELD_OUT),
            out=str(folder / f"{labelled.name}-{seed}"), tuning=settings.tuning, seed=seed, device=device,
            dtype=settings.dtype, threads=config.threads,
        )
        for labelled in settings.sets
        for seed in range(config.seeds)
        if not run.done(f"{labelled.name}-{seed}")
    ]  # fmt: skip
    run.start_stage()
    for item, (scores, cost) in zip(todo, several(jobs).map(_finetune, todo), strict=True):
        name = Path(item.out).name
        say(f"{name}: accuracy {scores['test_accuracy']:.3f} on test rows")
        run.finish_stage(name, **scores, rows=cost["examples"], cpu_seconds=cost["cpu_seconds"])
    main = _family(config, [s for s in settings.sets if not s.control_only], folder, "regions")
    everyone = _family(config, list(settings.sets), folder, "regions-controls")
    ground = Ground.open(
        main, kind="encoder", folder=run.folder("ground"), device=device, jobs=jobs, threads=config.threads
    )
    words, context = tokenizer(base), context_of(ground.model)

    def encoded(task: LabelledTask) -> EncodedTask:
        return encode_task(task, words, max_tokens=settings.tuning.max_tokens, context=context)

    train, validation, test = settings.probe_rows
    metrics: list[Metric] = [
        Generalised(
            encoded(tasks[name].sample(train=train, validation=validation, test=test)), settings.dtype
        )
        for name in config.groups
    ]
    notes = tuple(
        f"{m.encoded.task.name}: {note}"
        for m in metrics
        if isinstance(m, Generalised)
        for note in m.encoded.notes
    )

    @cache
    def few(name: str, seed: int) -> EncodedTask:
        return encoded(tasks[name].sample(train=config.centre.rows, validation=_HELD_OUT, seed=seed))

    @cache
    def whole(name: str) -> EncodedTask:
        return encoded(tasks[name].sample(validation=_HELD_OUT))

    def for_start(name: str) -> EncodedTask:
        rows = config.starts.rows if config.starts else None
        return encoded(tasks[name].sample(train=rows, validation=_HELD_OUT))

    return Material(
        family=main, everyone=everyone, ground=ground, metrics=metrics, notes=notes, dtype=settings.dtype,
        regimes=regimes(config, settings.dtype, few, whole), tasks=for_start,
    )  # fmt: skip


def regimes(
    config: RegionsStudy,
    dtype: str,
    few: Callable[[str, int], EncodedTask],
    whole: Callable[[str], EncodedTask],
) -> list[Regime]:
    """Return the ways in which held-out sets are fine-tuned."""
    centre = config.centre
    sets = tuple(config.groups)

    def after(data: Callable[[str, int], EncodedTask], tuning: FineTuning) -> Callable[[str, int], Metric]:
        return lambda name, seed: AfterTuning(data(name, seed), tuning, seed, dtype)

    found = [
        Regime(name=f"{centre.few.method}, {centre.rows:,} rows", sets=sets, tuned=after(few, centre.few))
    ]
    if centre.full is not None and centre.full_sets:
        name = f"{centre.full.method}, {centre.rows:,} rows"
        found.append(Regime(name=name, sets=centre.full_sets, tuned=after(few, centre.full)))
    if centre.all_rows is not None and centre.full_sets:
        every = after(lambda name, _: whole(name), centre.all_rows)
        found.append(Regime(name=f"{centre.all_rows.method}, all rows", sets=centre.full_sets, tuned=every))
    return found


class _Item(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One fine-tune, as a process of its own takes it."""

    base: str
    task: LabelledTask
    out: str
    tuning: FineTuning
    seed: int
    device: str
    dtype: str
    threads: int


def _finetune(item: _Item) -> tuple[dict[str, float], dict[str, float]]:
    with threads(item.threads):
        made = finetune(
            item.base,
            item.task,
            Path(item.out),
            item.tuning,
            seed=item.seed,
            device=item.device,
            dtype=item.dtype,
        )
    return made.scores, made.cost


def _base(folder: Path, settings: EncoderFamily, device: str) -> Path:
    """Write the base as the members will be: cut to its first layers, without a head."""
    target = folder / "base"
    if not (target / "config.json").is_file():
        source = Checkpoint.open(settings.model)
        encoder = load_encoder(source.path, layers=settings.layers, device=device)
        with replacing_folder(target) as temporary:
            save_encoder(encoder, source.path, temporary)
    return target


def _task(labelled: LabelledSet, root: Path) -> LabelledTask:
    ref = labelled.ref or str(root / labelled.name)
    try:
        task = read_task(ref, fields=labelled.fields)
    except ConfigError as error:
        raise ConfigError(f"set {labelled.name}: {error.message}", error.hint) from None
    return msgspec.structs.replace(task, name=labelled.name)


def _family(config: RegionsStudy, sets: list[LabelledSet], folder: Path, name: str) -> Family:
    members = [Member(name="base", path="base")]
    for labelled in sets:
        for seed in range(config.seeds):
            own = f"{labelled.name}-{seed}"
            labels: dict[str, str | int | float] = {
                "data": labelled.name, "family": labelled.family, "seed": seed,
            }  # fmt: skip
            members.append(Member(name=own, path=own, parents=("base",), labels=labels))
    family = Family(name, members, folder)
    family.save(folder / f"{name}.toml")
    return family
