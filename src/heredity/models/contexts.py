"""Text as a model takes it: sequences of equal length, from a token stream or from any source of text."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer
from numpy import ndarray

from heredity.checkpoint import Checkpoint
from heredity.corpora.documents import CorpusSpec, load, schemes
from heredity.corpora.tokens import TokenStream
from heredity.errors import ConfigError, CorpusError
from heredity.models.load import quiet_transformers, tokenizer

_LENGTH = 512
_KINDS = {".jsonl": "jsonl", ".parquet": "parquet"}


class Contexts(NamedTuple):
    """Sequences that a model is run over.

    Attributes:
        blocks: token identifiers, one sequence a row.
        digest: of the tokens and their arrangement.
        source: where they come from, for people.
    """

    blocks: Integer[ndarray, "sequences context"]
    digest: str
    source: str


def read_contexts(
    data: str,
    model: Path,
    *,
    context: int | None = None,
    domains: Sequence[str] = (),
    max_tokens: int | None = None,
    wrapped: bool = False,
) -> Contexts:
    """Read a token stream, or tokenise text by a model's own tokenizer.

    Args:
        data: folder of a token stream, whose own context is kept; or text: a file, a folder, or a source of
            the corpora such as `text:books/*.txt`. Texts follow each other, the end-of-text token between them
            where the tokenizer has one, and are cut into sequences; what is left over is not used.
        model: folder with the tokenizer; of no use to a stream.
        context: tokens of a sequence of text; default: 512, or what the model takes if that is less.
        domains: of the stream that are used; none: all.
        max_tokens: most tokens of each domain of a stream, or of the text.
        wrapped: put every sequence of text between the tokenizer's [CLS] and [SEP], as encoders expect it.

    Raises:
        ConfigError: no such domain, an unknown source, fewer tokens than one sequence.
        CorpusError: there is no text.
        StoreError: the stream is damaged.
        CheckpointError: the model has no tokenizer.
    """
    if (Path(data) / "meta.json").is_file():
        stream = TokenStream.open(Path(data))
        stream = stream.of(domains) if domains else stream
        stream = stream.head(max_tokens) if max_tokens is not None else stream
        return Contexts(stream.blocks(), stream.digest, f"{data}: {', '.join(stream.domains)}")
    if domains:
        raise ConfigError(f"{data}: only a token stream has domains", "name the text itself, without domains")
    encoder = tokenizer(model)
    if context is None:
        context = min(_LENGTH, Checkpoint.open(model).config.get("max_position_embeddings", _LENGTH))
    first, last = (encoder.cls_token_id, encoder.sep_token_id) if wrapped else (None, None)
    around = [[] if end is None else [end] for end in (first, last)]
    room = context - len(around[0]) - len(around[1])
    if room < 1:
        raise ConfigError(f"a context of {context} tokens holds no text", "make it longer")
    with quiet_transformers():
        ids = np.fromiter(_tokens(data, encoder, wrapped), np.int64)
    if not len(ids):
        raise CorpusError(f"{data}: no text", "check the source")
    ids = ids[:max_tokens]
    room = min(room, len(ids))  # a short text is one short sequence
    rows = ids[: len(ids) // room * room].reshape(-1, room)
    edges = [np.broadcast_to(np.array(end, np.int64), (len(rows), len(end))) for end in around]
    blocks = np.concatenate([edges[0], rows, edges[1]], axis=1)
    digest = hashlib.sha256(f"{blocks.shape}\n".encode() + blocks.astype("<i8").tobytes()).hexdigest()
    return Contexts(blocks, digest, data)


def _tokens(data: str, encoder: Any, wrapped: bool) -> Iterator[int]:
    """Yield the tokens of all texts, in the order of their names."""
    spec = CorpusSpec(domain="text", source=_source(data))
    end = None if wrapped else encoder.eos_token_id
    for document in load(spec, archives={}, seed=0, root=Path()):
        yield from encoder(document.text, add_special_tokens=False)["input_ids"]
        if end is not None:
            yield end


def _source(data: str) -> str:
    """Return a source of the corpora: as given, or by the ending of a file that exists."""
    path = Path(data)
    if path.exists():
        return f"{_KINDS.get(path.suffix, 'text')}:{data}"
    if data.partition(":")[0] in schemes():
        return data
    raise CorpusError(
        f"{data}: is neither a token stream nor text",
        f"give a folder, a file, or one of {', '.join(f'{name}:…' for name in schemes())}",
    )
