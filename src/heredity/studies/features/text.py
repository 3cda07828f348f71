"""First stage: read the corpora, split them by document, train the tokenizer, tokenise once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from heredity.corpora import documents, split, tokenizer, tokens
from heredity.corpora.tokens import TokenStream
from heredity.errors import CorpusError
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
    folder = run.path / "text"
    if not run.done("text"):
        run.start_stage()
        loaded = []
        for spec in config.text.corpora:
            found = documents.load(spec, archives=config.text.archives, seed=run.seed, root=root)
            say(f"{spec.domain}: {len(found)} documents, {sum(len(d.text.encode()) for d in found) / 1e6:.1f} MB")
            loaded += found
        train = 1 - config.text.validation - config.text.test
        parts = split.split(loaded, seed=run.seed, fractions=(train, config.text.validation, config.text.test))
        _no_overlap(parts)
        _tokenizer(config, parts, folder / "tokenizer")
        for name, chosen, limit in _cuts(config, parts):
            tokens.write_stream(
                chosen, folder / "tokenizer" / "tokenizer.json", folder / name,
                context=config.text.context, max_tokens_per_domain=limit,
            )  # fmt: skip
        run.write_table("dropped", parts.dropped)
        run.write_table("corpora", corpora_table(parts, {n: TokenStream.open(folder / n) for n in _PARTS}))
        run.finish_stage("text", dropped=len(parts.dropped))
    opened = {name: TokenStream.open(folder / name) for name in (*_PARTS, "shared")}
    return Streams(**opened, tokenizer=folder / "tokenizer")


_PARTS = ("train", "validation", "test")


def corpora_table(parts: split.Splits, streams: dict[str, TokenStream]) -> pl.DataFrame:
    """Give documents, bytes and tokens per domain and split, and how many copies were dropped from the domain."""
    rows = []
    dropped = parts.dropped
    for name in _PARTS:
        stream, chosen = streams[name], getattr(parts, name)
        for domain in stream.domains:
            mine = [d for d in chosen if d.domain == domain]
            gone = {
                kind: dropped.filter((pl.col("domain") == domain) & (pl.col("kind") == kind)).height
                for kind in ("exact", "near")
            }
            rows.append({
                "domain": domain, "split": name, "documents": len(mine), "bytes": sum(len(d.text.encode()) for d in mine),
                "tokens": stream.of(domain).n_tokens, "dropped_exact": gone["exact"], "dropped_near": gone["near"],
            })  # fmt: skip
    return pl.DataFrame(rows)


def _cuts(config: StudyConfig, parts: split.Splits) -> list[tuple[str, list[documents.Document], int | None]]:
    held_out = [*parts.validation, *parts.test]
    return [
        ("train", parts.train, None),
        ("validation", parts.validation, config.text.evaluation_tokens),
        ("test", parts.test, config.text.evaluation_tokens),
        ("shared", sorted(held_out, key=lambda d: _rank(config, d)), config.text.shared_tokens),
    ]


def _rank(config: StudyConfig, document: documents.Document) -> tuple[int, str]:
    return [c.domain for c in config.text.corpora].index(document.domain), document.key


def _tokenizer(config: StudyConfig, parts: split.Splits, out: Path) -> None:
    if config.text.tokenizer:
        tokenizer.copy_tokenizer(config.text.tokenizer, out)
        return
    texts = [d.text for d in parts.train if d.domain in config.base.domains]
    tokenizer.train_tokenizer(texts, vocab_size=config.text.vocabulary, out=out)


def _no_overlap(parts: split.Splits) -> None:
    """Stop before training when a document, or a copy of its text, is on both sides: a figure on it would be false."""
    held = {d.key for d in (*parts.validation, *parts.test)} | {d.text for d in (*parts.validation, *parts.test)}
    for document in parts.train:
        if document.key in held or document.text in held:
            raise CorpusError(f"{document.key}: is in the training text and held out", "report this: the split must not do it")
