"""One token stream for all: every member of a family is trained, measured and harvested over the same tokens.

A stream is a folder: tokens.bin (uint16 or uint32, little endian), documents.parquet (document, key, domain,
start, stop) and meta.json. Its tokens come domain by domain, each in whole blocks of `context` tokens.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int, Int32, UInt
from numpy import ndarray

from heredity.atomic import replacing_folder, write_text
from heredity.errors import ConfigError, StoreError

FORMAT = 1
FILES = ("documents.parquet", "meta.json", "tokens.bin")


class TokenStream:
    """Tokens with the document and the domain of each.

    Attributes:
        tokens: identifiers, memory-mapped when opened from a folder.
        context: tokens of a block.
        domains: in the order in which their tokens come.
        documents: table of document, key, domain, start and stop (token positions).
    """

    def __init__(
        self,
        tokens: UInt[ndarray, " n_tokens"],
        documents: pl.DataFrame,
        *,
        context: int,
        domains: tuple[str, ...],
        tokenizer_sha256: str,
    ) -> None:
        self.tokens, self.documents = tokens, documents
        self.context, self.domains, self.tokenizer_sha256 = context, domains, tokenizer_sha256

    @classmethod
    def open(cls, path: Path) -> "TokenStream":
        """Open a stream's folder; the tokens are mapped, not read.

        Raises:
            StoreError: no stream there, or its files are not the ones that were written.
        """
        path = Path(path)
        again = "remove the folder and tokenise again"
        try:
            meta = json.loads((path / "meta.json").read_text())
            documents = pl.read_parquet(path / "documents.parquet")
            tokens = np.memmap(path / "tokens.bin", dtype=np.dtype(meta["dtype"]), mode="r")
            if meta["format"] != FORMAT:
                raise StoreError(
                    f"{path}: token stream of format {meta['format']}, this version reads {FORMAT}", again
                )
            stream = cls(
                tokens, documents, context=int(meta["context"]), domains=tuple(meta["domains"]),
                tokenizer_sha256=meta["tokenizer_sha256"],
            )  # fmt: skip
            digest = stream.digest
        except FileNotFoundError as error:
            raise StoreError(
                f"{error.filename or path}: no such file", "tokenise the corpora first"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pl.exceptions.PolarsError) as error:
            raise StoreError(f"{path}: not a token stream ({type(error).__name__}: {error})", again) from None
        if digest != meta.get("digest"):
            raise StoreError(f"{path}: the tokens are not the ones that were written", again)
        return stream

    def __repr__(self) -> str:
        what = f"{self.n_tokens:,} tokens, {len(self.document_keys):,} documents, context {self.context}"
        return f"TokenStream({what}: {', '.join(self.domains)})"

    @property
    def n_tokens(self) -> int:
        """Tokens in all."""
        return len(self.tokens)

    @property
    def n_blocks(self) -> int:
        """Blocks of `context` tokens in all."""
        return self.n_tokens // self.context

    @cached_property
    def document_keys(self) -> list[str]:
        """Key of each document, by its number in `document`."""
        return self.documents["key"].to_list()

    @cached_property
    def document(self) -> Int32[ndarray, " n_tokens"]:
        """Number of the document of each token."""
        return np.repeat(np.arange(len(self.documents), dtype=np.int32), self._lengths())

    @cached_property
    def domain(self) -> Int[ndarray, " n_tokens"]:
        """Number of the domain of each token, in `domains`."""
        return np.repeat(self._domain_of_document(), self._lengths())

    @cached_property
    def domain_of_block(self) -> Int[ndarray, " n_blocks"]:
        """Number of the domain of each block."""
        return self.domain[:: self.context].copy()

    def blocks(self) -> UInt[ndarray, "n_blocks context"]:
        """View the tokens as blocks, without a copy."""
        return self.tokens.reshape(self.n_blocks, self.context)

    def of(self, domain: str | Sequence[str]) -> "TokenStream":
        """Return the part of one domain or several, in the order of this stream.

        Raises:
            ConfigError: it has no such domain.
        """
        wanted = (domain,) if isinstance(domain, str) else tuple(domain)
        if not wanted:
            raise ConfigError(
                "no domain of the token stream is asked for", f"its domains are {', '.join(self.domains)}"
            )
        for name in wanted:
            if name not in self.domains:
                raise ConfigError(
                    f"the token stream has no domain {name!r}", f"its domains are {', '.join(self.domains)}"
                )
        return self._part([name in wanted for name in self.domains], None)

    def head(self, tokens_per_domain: int) -> "TokenStream":
        """Return the first blocks of every domain: at most so many tokens of each, in whole blocks.

        Raises:
            ConfigError: fewer tokens than one block.
        """
        blocks = tokens_per_domain // self.context
        if blocks < 1:
            raise ConfigError(
                f"{tokens_per_domain} tokens per domain are less than a block of {self.context}",
                "ask for more",
            )
        return self._part([True] * len(self.domains), blocks)

    @cached_property
    def digest(self) -> str:
        """sha256 of all that a comparison depends on: tokens, documents, context, tokenizer."""
        whole = hashlib.sha256(np.ascontiguousarray(self.tokens).view(np.uint8).data)
        for row in self.documents.select("key", "domain", "start", "stop").iter_rows():
            whole.update("\t".join(map(str, row)).encode() + b"\n")
        rest = [str(self.context), self.tokens.dtype.str, self.tokenizer_sha256, *self.domains]
        whole.update("\n".join(rest).encode())
        return whole.hexdigest()

    def save(self, path: Path, *, source_digest: str) -> None:
        """Write the stream's folder, whole or not at all; `source_digest` tells later what it was made of."""
        meta = {
            "format": FORMAT, "context": self.context, "domains": list(self.domains),
            "n_tokens": self.n_tokens, "n_documents": len(self.documents),
            "dtype": self.tokens.dtype.str, "digest": self.digest,
            "tokenizer_sha256": self.tokenizer_sha256, "source_digest": source_digest,
        }  # fmt: skip
        with replacing_folder(path) as temporary:
            self.tokens.tofile(temporary / "tokens.bin")
            self.documents.write_parquet(temporary / "documents.parquet", statistics=False)
            write_text(temporary / "meta.json", json.dumps(meta, indent=1) + "\n")

    def _lengths(self) -> Int[ndarray, " n_documents"]:
        lengths: Int[ndarray, " n_documents"] = (self.documents["stop"] - self.documents["start"]).to_numpy()
        return lengths

    def _domain_of_document(self) -> Int[ndarray, " n_documents"]:
        number = {name: index for index, name in enumerate(self.domains)}
        kind = np.uint8 if len(self.domains) <= 256 else np.int16
        return np.array([number[name] for name in self.documents["domain"]], dtype=kind)

    def _part(self, wanted: list[bool], max_blocks: int | None) -> "TokenStream":
        ranges, tables, total = [], [], 0
        first = np.searchsorted(self.domain_of_block, np.arange(len(self.domains) + 1))
        for number in (n for n, chosen in enumerate(wanted) if chosen):
            blocks = first[number + 1] - first[number]
            start = int(first[number]) * self.context
            stop = start + int(blocks if max_blocks is None else min(blocks, max_blocks)) * self.context
            inside = self.documents.filter(
                (pl.col("start") < stop)
                & (pl.col("stop") > start)
                & (pl.col("domain") == self.domains[number])
            )
            shift = total - start
            tables.append(
                inside.with_columns(
                    start=pl.col("start") + shift, stop=pl.col("stop").clip(upper_bound=stop) + shift
                )
            )
            ranges.append(self.tokens[start:stop])
            total += stop - start
        tokens = np.concatenate(ranges) if len(ranges) > 1 else np.asarray(ranges[0])
        return TokenStream(
            tokens, numbered(pl.concat(tables)), context=self.context, tokenizer_sha256=self.tokenizer_sha256,
            domains=tuple(name for name, chosen in zip(self.domains, wanted, strict=True) if chosen),
        )  # fmt: skip


def numbered(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table of documents with their numbers, from 0 on, as its first column."""
    rest = table.drop("document", strict=False)
    return rest.select(
        pl.int_range(pl.len(), dtype=pl.Int32).alias("document"), "key", "domain", "start", "stop"
    )
