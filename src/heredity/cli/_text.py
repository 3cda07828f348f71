"""The token stream that a command works on: a ready one, or text tokenised by the model's own tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from heredity.corpora.tokens import TokenStream
    from heredity.features.feed import Ends


def stream_of(
    data: Sequence[str], model: Path, out: Path, *, context: int, domains: Sequence[str],
    max_tokens: int | None, seed: int,
) -> "TokenStream":  # fmt: skip
    """Open the one token stream that is named, or tokenise text into `out`.

    Args:
        data: a stream's folder, or text as `corpora.given` reads it.
        model: folder with the tokenizer, for text.
        out: folder of the tokenizer and the stream, for text.
        context: tokens of a context of text; a stream keeps its own.
        domains: of the stream or the text that are used; none: all.
        max_tokens: of each domain; of text, a piece of every document.
        seed: of the order of documents.

    Raises:
        HeredityError: there is no such text, or it is shorter than one context.
    """
    from heredity.corpora import load, write_stream
    from heredity.corpora.given import corpora
    from heredity.corpora.stream import TokenStream
    from heredity.errors import ConfigError

    if len(data) == 1 and (Path(data[0]) / "tokens.bin").is_file():
        stream = TokenStream.open(Path(data[0]))
        stream = stream.of(domains) if domains else stream
        return stream if max_tokens is None else stream.head(max_tokens)
    specs, archives = corpora(data)
    unknown = [name for name in domains if name not in {spec.domain for spec in specs}]
    if unknown:
        raise ConfigError(f"no domain {unknown[0]!r}", f"domains: {', '.join(s.domain for s in specs)}")
    documents = [
        document
        for spec in specs
        if not domains or spec.domain in domains
        for document in load(spec, archives=archives, seed=seed, root=Path.cwd())
    ]
    return write_stream(
        documents, tokenizer_file(model, out), out / "stream", context=context, max_tokens_per_domain=max_tokens,
        spread=True, seed=seed,
    )  # fmt: skip


def tokenizer_file(model: Path, out: Path) -> Path:
    """Return a model's tokenizer.json, or one made of its other tokenizer files and kept in `out`."""
    from heredity.models.load import copy_tokenizer

    ready = model / "tokenizer.json"
    if ready.is_file():
        return ready
    copy_tokenizer(str(model), out / "tokenizer")
    return out / "tokenizer" / "tokenizer.json"


def ends_for(live: "nn.Module", model: Path) -> "Ends | None":
    """Return [CLS] and [SEP] of an encoder, as its tokenizer names them."""
    from heredity.features.feed import ends_of
    from heredity.models.architecture import kind_of
    from heredity.models.load import tokenizer

    config: Any = live.config
    return ends_of(live, tokenizer(model)) if kind_of(config) == "encoder" else None
