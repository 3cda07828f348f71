"""First stage: read the corpora, split them by document, train the tokenizer, tokenise once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from heredity.corpora import (
    Document,
    Splits,
    TokenStream,
    corpora_table,
    load,
    split,
    train_tokenizer,
    write_stream,
)
from heredity.corpora.split import NAMES
from heredity.errors import CorpusError
from heredity.models.load import copy_tokenizer
from heredity.run import Run
from heredity.studies.features.config import StudyConfig


@dataclass(frozen=True)
class Streams:
    """The token streams of a study; no document is in two of the first three.

    Attributes:
        train: what language models and SAEs are trained on.
        validation: what choices are made on.
        test: what losses and SAE quality are reported on.
        shared: held-out text (validation and test) on which every member's features are compared.
        tokenizer: folder of the tokenizer.
    """

    train: TokenStream
    validation: TokenStream
    test: TokenStream
    shared: TokenStream
    tokenizer: Path


def prepare(run: Run, config: StudyConfig, *, root: Path, say: Callable[[str], None]) -> Streams:
    """Make or re-open the streams, and write the table `corpora`."""
    folder = run.folder("text")
    if not run.done("text"):
        run.start_stage()
        loaded = []
        for spec in config.text.corpora:
            found = load(spec, archives=config.text.archives, seed=run.seed, root=root)
            say(f"{spec.domain}: {len(found)} documents, {sum(d.size_bytes for d in found) / 1e6:.1f} MB")
            loaded += found
        train = 1 - config.text.validation - config.text.test
        parts = split(loaded, seed=run.seed, fractions=(train, config.text.validation, config.text.test))
        _no_overlap(parts)
        _tokenizer(config, parts, folder / "tokenizer")
        for name, chosen, limit in _cuts(config, parts):
            write_stream(
                chosen, folder / "tokenizer" / "tokenizer.json", folder / name,
                context=config.text.context, max_tokens_per_domain=limit, spread=True,
            )  # fmt: skip
        run.write_table("dropped", parts.dropped)
        run.write_table(
            "corpora", corpora_table(parts, {name: TokenStream.open(folder / name) for name in NAMES})
        )
        run.finish_stage("text", dropped=len(parts.dropped))
    opened = {name: TokenStream.open(folder / name) for name in (*NAMES, "shared")}
    return Streams(**opened, tokenizer=folder / "tokenizer")


def _cuts(config: StudyConfig, parts: Splits) -> list[tuple[str, list[Document], int | None]]:
    held_out = [*parts.validation, *parts.test]
    return [
        ("train", parts.train, None),
        ("validation", parts.validation, config.text.evaluation_tokens),
        ("test", parts.test, config.text.evaluation_tokens),
        ("shared", sorted(held_out, key=lambda d: _rank(config, d)), config.text.shared_tokens),
    ]


def _rank(config: StudyConfig, document: Document) -> tuple[int, str]:
    return [c.domain for c in config.text.corpora].index(document.domain), document.key


def _tokenizer(config: StudyConfig, parts: Splits, out: Path) -> None:
    if config.text.tokenizer:
        copy_tokenizer(config.text.tokenizer, out)
        return
    texts = [d.text for d in parts.train if d.domain in config.base.domains]
    train_tokenizer(texts, vocab_size=config.text.vocabulary, out=out)


def _no_overlap(parts: Splits) -> None:
    """Stop before training when a document, or a copy of its text, is on both sides: a figure on it would be false."""
    held = {d.key for d in (*parts.validation, *parts.test)} | {
        d.text for d in (*parts.validation, *parts.test)
    }
    for document in parts.train:
        if document.key in held or document.text in held:
            raise CorpusError(
                f"{document.key}: is in the training text and held out",
                "report this: the split must not do it",
            )
