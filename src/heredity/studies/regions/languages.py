"""The family of the study for those without an encoder: one-layer language models over domains of text and code."""

import copy
import shutil
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from heredity.corpora import TokenStream
from heredity.family import Family, Member
from heredity.models.load import initialise, threads
from heredity.models.load import load as load_model
from heredity.models.train import LmTraining, save_model, stage_seed, train_lm
from heredity.regions.evaluations import Score
from heredity.regions.ground import Ground
from heredity.regions.metrics import LmLoss, Metric
from heredity.regions.place import Place
from heredity.run import Run
from heredity.studies.regions.config import LmFamily, RegionsStudy
from heredity.studies.regions.material import Material, Regime, several
from heredity.studies.texts import prepare_texts

Say = Callable[[str], None]


class LmTuned(msgspec.Struct, frozen=True, eq=False):
    """Loss after a copy of a language model is fine-tuned on a part of a domain, drawn by the seed.

    Attributes:
        train: the domain's training text.
        held_out: its held-out text.
        config: the schedule.
        tokens: how many training tokens.
        seed: of the contexts and their order.
    """

    train: TokenStream
    held_out: TokenStream
    config: LmTraining
    tokens: int
    seed: int

    @property
    def name(self) -> str:
        """ "tuned"."""
        return "tuned"

    @property
    def data(self) -> tuple[str, ...]:
        """The domain, held out."""
        return self.held_out.domains

    @property
    def digest(self) -> str:
        """Of the text, the schedule and the seed."""
        facts = [self.train.digest, self.held_out.digest, msgspec.json.encode(self.config).decode()]
        return sha256(" ".join([self.name, *facts, str(self.tokens), str(self.seed)]).encode()).hexdigest()

    def measure(self, model: Any, place: Place) -> list[Score]:
        """Fine-tune a copy of the model and score it."""
        live = copy.deepcopy(model)
        schedule = msgspec.structs.replace(self.config, epochs=self.tokens / self.train.n_tokens)
        with tempfile.TemporaryDirectory() as work:
            train_lm(
                live, self.train, Path(work) / "state", config=schedule, seed=self.seed, label=place.name
            )
        return LmLoss(self.held_out).measure(live, place)


def train_languages(
    run: Run, config: RegionsStudy, settings: LmFamily, root: Path, *, device: str, jobs: int, say: Say
) -> Material:
    """Train the base and every member that is not there yet, and open the ground.

    Raises:
        CorpusError: a text cannot be had.
    """
    prepare_texts(run, settings, root=root, spread=True, say=say)
    for name in ("models", "work"):
        run.folder(name)
    train, held_out = (TokenStream.open(run.folder("text") / name) for name in ("train", "held-out"))
    names = {f"{domain}-{seed}": domain for domain in settings.kinds for seed in range(config.seeds)}
    for todo in (["base"], list(names)):  # the base first of all
        items = [
            _Item(
                name=name, parent=None if name == "base" else "base", run_folder=str(run.path), settings=settings,
                domains=settings.base_domains if name == "base" else (names[name],),
                seed=stage_seed(run.seed, "train", name), device=device, threads=config.threads,
            )
            for name in todo
            if not run.done(name)
        ]  # fmt: skip
        run.start_stage()
        mapped = several(jobs if len(items) > 1 else 1).map(_train, items)
        for item, (loss, tokens, cpu) in zip(items, mapped, strict=True):
            say(f"{item.name}: loss {loss:.3f}")
            run.finish_stage(item.name, loss=loss, tokens=tokens, cpu_seconds=cpu)
    members = [Member(name="base", path="base")]
    for name, domain in names.items():
        labels: dict[str, str | int | float] = {
            "data": domain, "family": settings.kinds[domain], "seed": int(name.rsplit("-", 1)[1]),
        }  # fmt: skip
        members.append(Member(name=name, path=name, parents=("base",), labels=labels))
    family = Family("regions", members, run.folder("models"))
    family.save(run.folder("models") / "regions.toml")
    ground = Ground.open(
        family, kind="lm", folder=run.folder("ground"), device=device, jobs=jobs, threads=config.threads
    )
    tuning = config.centre.lm or settings.finetuning

    def regime(tokens: int) -> Regime:
        def tuned(domain: str, seed: int) -> Metric:
            own = stage_seed(run.seed, "centre", seed)
            return LmTuned(train.of(domain), held_out.of(domain), tuning, tokens, own)

        return Regime(name=f"full, {tokens:,} tokens", sets=tuple(settings.kinds), tuned=tuned)

    return Material(
        family=family, everyone=family, ground=ground, metrics=[LmLoss(held_out.of(list(settings.kinds)))],
        regimes=[regime(tokens) for tokens in config.centre.tokens], notes=(),
    )  # fmt: skip


class _Item(msgspec.Struct, frozen=True, kw_only=True):
    """One training, as a process of its own takes it."""

    name: str
    parent: str | None
    run_folder: str
    settings: LmFamily
    domains: tuple[str, ...]
    seed: int
    device: str
    threads: int


def _train(item: _Item) -> tuple[float, float, float]:
    start = time.process_time()
    root, settings = Path(item.run_folder), item.settings
    stream = TokenStream.open(root / "text" / "train").of(list(item.domains))
    model = (
        initialise(settings.model | {"vocab_size": settings.vocabulary}, seed=item.seed, device=item.device)
        if item.parent is None
        else load_model(root / "models" / item.parent, device=item.device)
    )
    training, tokens = settings.finetuning, settings.tokens
    if item.parent is None:
        training, tokens = settings.pretraining, settings.base_tokens
    schedule = msgspec.structs.replace(training, epochs=tokens / stream.n_tokens)
    work = root / "work" / item.name
    with threads(item.threads):
        history = train_lm(model, stream, work, config=schedule, seed=item.seed, label=item.name)
    save_model(model, root / "text" / "tokenizer", root / "models" / item.name)
    shutil.rmtree(work, ignore_errors=True)
    return history[-1]["loss"], history[-1]["tokens"], round(time.process_time() - start, 3)
