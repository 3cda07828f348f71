"""The text of a family of language models over domains: split by whole documents, one tokenizer, two streams."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from heredity.corpora import Document, load, split, train_tokenizer, write_stream
from heredity.corpora.documents import CorpusSpec
from heredity.run import Run

_SPLIT = (0.80, 0.10, 0.10)


class DomainText(Protocol):
    """What the settings of such a family say of its text."""

    @property
    def corpora(self) -> tuple[CorpusSpec, ...]: ...

    @property
    def archives(self) -> dict[str, str]: ...

    @property
    def base_domains(self) -> tuple[str, ...]: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def context(self) -> int: ...

    @property
    def evaluation_tokens(self) -> int: ...


def prepare_texts(
    run: Run, settings: DomainText, *, root: Path, spread: bool, say: Callable[[str], None]
) -> None:
    """Write `text/train` and `text/held-out`, unless that was done.

    Args:
        run: its folder gets them, and the tokenizer.
        settings: corpora and sizes.
        root: folder that relative paths of corpora start from.
        spread: whether held-out tokens are a piece of every document, rather than the first documents.
        say: takes one line of progress at a time.
    """
    if run.done("text"):
        return
    run.start_stage()
    train: list[Document] = []
    held_out: list[Document] = []
    for corpus in settings.corpora:
        # Each domain is split by itself: the Folio's plays are copies of the others, and are meant to be.
        documents = load(corpus, archives=settings.archives, seed=run.seed, root=root)
        parts = split(documents, seed=run.seed, fractions=_SPLIT)
        train += parts.train
        held_out += parts.test
        say(f"{corpus.domain}: {len(parts.train)} documents to train on")
    folder = run.folder("text")
    texts = [document.text for document in train if document.domain in settings.base_domains]
    train_tokenizer(texts, vocab_size=settings.vocabulary, out=folder / "tokenizer")
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    write_stream(
        train,
        tokenizer,
        folder / "train",
        context=settings.context,
        max_tokens_per_domain=None,
        seed=run.seed,
    )
    write_stream(
        held_out, tokenizer, folder / "held-out", context=settings.context,
        max_tokens_per_domain=settings.evaluation_tokens, spread=spread, seed=run.seed,
    )  # fmt: skip
    run.finish_stage("text")
