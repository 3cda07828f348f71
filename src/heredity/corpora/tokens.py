"""Turn documents into a token stream: domain by domain, in keyed order, in whole blocks, once."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import UInt
from numpy import ndarray

from heredity.corpora.documents import Document, keyed_order
from heredity.corpora.files import refuse_other_files
from heredity.corpora.stream import FILES, FORMAT, TokenStream, numbered
from heredity.corpora.tokenizer import end_of_text, open_tokenizer, sha256_of
from heredity.errors import ConfigError, CorpusError, StoreError
from heredity.seeds import key as hash_key

__all__ = ["TokenStream", "write_stream"]

_BATCH_CHARACTERS = 1 << 20  # handed to the tokenizer at once: it takes a batch in parallel


def write_stream(
    documents: Sequence[Document],
    tokenizer_file: Path,
    out: Path,
    *,
    context: int,
    max_tokens_per_domain: int | None,
    spread: bool = False,
    seed: int = 0,
) -> TokenStream:
    """Tokenise documents into a stream's folder, or open the one that was made of the same input.

    Domains come in the order of their first document; within a domain the documents come in keyed order, each
    followed by the end-of-text token, and the domain is cut to whole blocks.

    Args:
        documents: of one split.
        tokenizer_file: tokenizer.json.
        out: folder to write, whole or not at all.
        context: tokens of a block.
        max_tokens_per_domain: stop a domain there; None takes all of it.
        spread: where a domain is too long, take a piece of every document, from a keyed place, instead of whole
            documents until it is full: what resamples documents needs many of them.
        seed: of the keyed order.

    Raises:
        ConfigError: less than one token a block, or less than one block a domain; `out` has files of others.
        CorpusError: no documents, or a domain with less than one block of tokens.
        StoreError: `out` is a stream that was damaged.
        DiskFullError: no space left; nothing partial stays.
    """
    out = Path(out)
    if not documents:
        raise CorpusError(f"{out}: no documents to tokenise", "check the corpora and their split")
    if context < 1 or (max_tokens_per_domain is not None and max_tokens_per_domain < context):
        raise ConfigError(
            f"{max_tokens_per_domain} tokens per domain hold no block of {context}", "allow more tokens"
        )
    domains = tuple(dict.fromkeys(d.domain for d in documents))
    ordered = {n: keyed_order([d for d in documents if d.domain == n], seed, "stream") for n in domains}
    tokenizer_sha256 = sha256_of(tokenizer_file)
    source = _source_digest(ordered, tokenizer_sha256, context, max_tokens_per_domain, spread, seed)
    if _made_of(out) == source:
        return TokenStream.open(out)
    refuse_other_files(out, FILES)
    tokenizer = open_tokenizer(tokenizer_file)
    end = end_of_text(tokenizer, tokenizer_file)
    parts, tables, position = [], [], 0
    for name in domains:
        tokens, table = _tokenise(ordered[name], tokenizer, end, context, max_tokens_per_domain, spread, seed)
        if not len(tokens):
            raise CorpusError(
                f"{out}: domain {name!r} has less than a block of {context} tokens",
                "add text, or shorten the context",
            )
        tables.append(table.with_columns(start=pl.col("start") + position, stop=pl.col("stop") + position))
        parts.append(tokens)
        position += len(tokens)
    stream = TokenStream(
        np.concatenate(parts), numbered(pl.concat(tables)), context=context, domains=domains,
        tokenizer_sha256=tokenizer_sha256,
    )  # fmt: skip
    stream.save(out, source_digest=source)
    return TokenStream.open(out)


def _tokenise(
    documents: list[Document],
    tokenizer: Any,
    end: int,
    context: int,
    most: int | None,
    spread: bool,
    seed: int,
) -> tuple[UInt[ndarray, " n_tokens"], pl.DataFrame]:
    """Return the tokens of one domain in whole blocks, and where each document lies."""
    kind = np.dtype("<u2") if tokenizer.get_vocab_size() <= 1 << 16 else np.dtype("<u4")
    pieces, total = [], 0
    for batch in _batches(documents):
        for encoding in tokenizer.encode_batch_fast([d.text for d in batch], add_special_tokens=False):
            pieces.append(np.array([*encoding.ids, end], dtype=kind))
            total += len(pieces[-1])
        if most is not None and total >= most and not spread:
            break
    if most is not None and total > most and spread:
        pieces = _even(pieces, documents, max(most, context * len(pieces)), end, seed)
        total = sum(map(len, pieces))
    length = (total if most is None else min(total, most)) // context * context
    edges = np.minimum(np.cumsum([0, *map(len, pieces)]), length)
    seen = documents[: len(pieces)]
    table = pl.DataFrame(
        {
            "key": [d.key for d in seen], "domain": [d.domain for d in seen],
            "start": edges[:-1].astype(np.int64), "stop": edges[1:].astype(np.int64),
        }
    ).filter(pl.col("stop") > pl.col("start"))  # fmt: skip
    return np.concatenate(pieces)[:length], table


def _even(
    pieces: list[UInt[ndarray, " n"]], documents: list[Document], most: int, end: int, seed: int
) -> list[UInt[ndarray, " n"]]:
    """Cut long documents down to one length, the shortest with which `most` tokens are left in all."""
    lengths = np.sort([len(p) for p in pieces])
    before = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    caps = -(-(most - before) // np.arange(len(lengths), 0, -1))  # if those shorter than the i-th stay whole
    longest = int(caps[np.argmax(caps <= lengths)])
    out = []
    for piece, document in zip(pieces, documents, strict=True):
        room = len(piece) - longest
        if room > 0:
            start = hash_key(seed, "piece of a document", document.key) % (room + 1)
            piece = np.append(piece[start : start + longest - 1], piece.dtype.type(end))
        out.append(piece)
    return out


def _batches(documents: list[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _source_digest(
    ordered: dict[str, list[Document]],
    tokenizer: str,
    context: int,
    most: int | None,
    spread: bool,
    seed: int,
) -> str:
    whole = hashlib.sha256(f"{FORMAT} {tokenizer} {context} {most} {spread} {seed}\n".encode())
    for name in ordered:
        for document in ordered[name]:
            text = document.text.encode()
            whole.update(f"{name}\t{document.key}\t{len(text)}\n".encode())
            whole.update(text)
    return whole.hexdigest()


def _made_of(out: Path) -> str | None:
    try:
        return str(json.loads((out / "meta.json").read_text())["source_digest"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{out}: not a token stream ({error})", "remove the folder and tokenise again"
        ) from None
