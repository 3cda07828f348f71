"""Fine-tune a base on several kinds of text with several seeds each: a real family for `heredity map`.

Do fine-tunes of one data set lie together?  (Gueta et al. 2023, arXiv 2302.04863, section 3.)  A second base,
trained alike from another seed, is the negative control: its fine-tunes must lie with it, on any text.

    run = Run.open("runs/domains", command="domains", config=plain(preset()), seed=0)
    study(run, preset())        # RUN/models/family-0.toml, family-1.toml and both.toml, for `heredity map`
"""

import shutil
import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec
import polars as pl
from msgspec import Meta

from heredity.corpora import TokenStream
from heredity.corpora.documents import CorpusSpec
from heredity.family import Family, Member
from heredity.models.evaluate import lm_scores
from heredity.models.load import initialise, threads
from heredity.models.load import load as load_model
from heredity.models.train import LmTraining, save_model, stage_seed, train_lm
from heredity.run import Run
from heredity.studies.texts import prepare_texts

Count = Annotated[int, Meta(ge=1)]
Say = Callable[[str], None]


class Domains(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the study.

    Attributes:
        bases: how many bases, alike but for their seed.
        seeds: fine-tunes of each base on each domain; a seed decides which contexts come, and in what order.
        vocabulary: of the byte-level BPE, trained on the bases' text.
        context: tokens per context.
        base_domains: what the bases are trained on.
        base_tokens: training tokens of a base, over its domains.
        tokens: training tokens of a fine-tune.
        evaluation_tokens: held-out tokens of each domain.
        threads: of torch; the last bits of the weights depend on it.
        model: a transformers configuration.
        pretraining: how the bases are trained; `epochs` follows from the tokens.
        finetuning: how the fine-tunes are.
        kinds: kind of each domain, a label for the map.
        corpora: a source for each domain.
        archives: sha256 of every package archive, by file name.
    """

    bases: Count
    seeds: Count
    vocabulary: Count
    context: Count
    base_domains: tuple[str, ...]
    base_tokens: Count
    tokens: Count
    evaluation_tokens: Count
    threads: Count
    model: dict[str, Any]
    pretraining: LmTraining
    finetuning: LmTraining
    kinds: dict[str, str]
    corpora: tuple[CorpusSpec, ...]
    archives: dict[str, str]

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in order."""
        return tuple(corpus.domain for corpus in self.corpora)


def preset() -> Domains:
    """Return the settings that the documentation reports: eight domains, three seeds, two bases."""
    text = resources.files("heredity.studies").joinpath("domains.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Domains)


def plain(config: Domains) -> dict[str, Any]:
    """Return settings as plain values, for the record of a run."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    return values


def study(
    run: Run,
    config: Domains,
    *,
    root: Path = Path(),
    device: str = "cpu",
    progress: bool = False,
    say: Say = lambda _: None,
) -> list[Path]:
    """Train the families and describe them; goes on where an earlier call stopped.

    Returns:
        The family files: one for each base, and one of all.

    Raises:
        CorpusError: a text cannot be had.
    """
    prepare_texts(run, config, root=root, spread=False, say=say)
    train, held_out = (TokenStream.open(run.folder("text") / name) for name in ("train", "held-out"))
    with threads(config.threads):
        for base in range(config.bases):
            stream = train.of(list(config.base_domains))
            _train(
                run,
                config,
                _base(base),
                None,
                stream,
                config.base_tokens,
                config.pretraining,
                device,
                progress,
            )
            for domain in config.domains:
                for seed in range(config.seeds):
                    name = _child(base, domain, seed)
                    text = train.of(domain)
                    _train(
                        run,
                        config,
                        name,
                        _base(base),
                        text,
                        config.tokens,
                        config.finetuning,
                        device,
                        progress,
                    )
                    say(f"{name}: trained")
        if not run.done("losses"):
            run.write_table("losses", _losses(run, config, held_out, device))
            run.finish_stage("losses")
    return _describe(run, config)


def _train(
    run: Run,
    config: Domains,
    name: str,
    parent: str | None,
    stream: TokenStream,
    tokens: int,
    training: LmTraining,
    device: str,
    progress: bool,
) -> None:
    if run.done(name):
        return
    run.start_stage()
    folder = run.folder("models")
    seed = stage_seed(run.seed, "train", name)
    model = (
        initialise(config.model | {"vocab_size": config.vocabulary}, seed=seed, device=device)
        if parent is None
        else load_model(folder / parent, device=device)
    )
    schedule = msgspec.structs.replace(training, epochs=tokens / (stream.n_blocks * stream.context))
    history = train_lm(
        model, stream, run.folder("work") / name, config=schedule, seed=seed, label=name, progress=progress
    )
    save_model(model, run.folder("text") / "tokenizer", folder / name)
    shutil.rmtree(run.folder("work") / name, ignore_errors=True)
    run.finish_stage(name, loss=history[-1]["loss"], tokens=history[-1]["tokens"])


def _losses(run: Run, config: Domains, held_out: TokenStream, device: str) -> pl.DataFrame:
    """Score every model on the held-out text of its own domain, beside its base."""
    rows = []
    for base in range(config.bases):
        before = load_model(run.folder("models") / _base(base), device=device)
        for domain in config.domains:
            text = held_out.of(domain)
            start = lm_scores(before, text).summary()[0]
            for seed in range(config.seeds):
                name = _child(base, domain, seed)
                loss = lm_scores(load_model(run.folder("models") / name, device=device), text).summary()[0]
                rows.append({"member": name, "domain": domain, "loss_base": start, "loss": loss})
    return pl.DataFrame(rows)


def _describe(run: Run, config: Domains) -> list[Path]:
    folder, everyone, files = run.folder("models"), [], []
    for base in range(config.bases):
        members = [Member(name=_base(base), path=_base(base), labels={"base": base})]
        for domain in config.domains:
            for seed in range(config.seeds):
                name = _child(base, domain, seed)
                labels: dict[str, str | int | float] = {
                    "domain": domain,
                    "kind": config.kinds.get(domain, domain),
                    "base": base,
                    "seed": seed,
                }
                members.append(Member(name=name, path=name, parents=(_base(base),), labels=labels))
        files.append(Family(f"domains-{base}", members, folder).save(folder / f"family-{base}.toml"))
        everyone += members
    return [*files, Family("domains", everyone, folder).save(folder / "both.toml")]


def _base(index: int) -> str:
    return f"base-{index}"


def _child(base: int, domain: str, seed: int) -> str:
    return f"{domain}-{seed}" if base == 0 else f"{domain}-{seed}-b{base}"
