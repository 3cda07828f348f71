"""Second stage: the text that the family is compared on, tokenised once and divided by document.

A ready stream is divided by its blocks, domain by domain: the first ones train SAEs, the last ones are held out,
and a document on the border is in neither.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool
from numpy import ndarray

from heredity.corpora import TokenStream, corpora_table, load, split, write_stream
from heredity.corpora.split import NAMES
from heredity.corpora.stream import numbered
from heredity.errors import StoreError
from heredity.models.load import copy_tokenizer
from heredity.run import Run
from heredity.studies.features.text import Streams
from heredity.studies.tracking.config import TrackConfig


def prepare(
    run: Run, config: TrackConfig, tokenizer: Path, *, root: Path, say: Callable[[str], None]
) -> Streams:
    """Make or re-open the streams, and write the table `corpora`.

    Args:
        run: where they are kept.
        config: the settings.
        tokenizer: folder of the model whose tokenizer reads the text.
        root: folder that relative paths of corpora start from.
        say: takes one line of progress at a time.

    Raises:
        CorpusError: no text, or less than one context of a domain.
        StoreError: too little text for any latent to be judged.
    """
    folder = run.folder("text")
    if not run.done("text"):
        run.start_stage()
        copy_tokenizer(str(tokenizer), folder / "tokenizer")
        dropped = _from_stream(run, config, root, folder) if config.text.stream else _from_corpora(
            run, config, root, folder, say
        )  # fmt: skip
        run.finish_stage("text", dropped=dropped)
    opened = {name: TokenStream.open(folder / name) for name in (*NAMES, "shared")}
    streams = Streams(**opened, tokenizer=folder / "tokenizer")
    check_length(config, streams.shared.n_tokens)
    say(
        f"text: {streams.train.n_tokens:,} tokens to train SAEs on, {streams.shared.n_tokens:,} held out to compare on"
    )
    return streams


def check_length(config: TrackConfig, n_tokens: int) -> None:
    """Check that latents can fire often enough on the held-out text to be judged.

    Raises:
        StoreError: the average latent cannot.
    """
    firings = n_tokens * config.sae.k / config.sae.latents
    if firings < config.lineage.min_firings:
        raise StoreError(
            f"the held-out text has {n_tokens:,} tokens: the average latent would fire {firings:.0f} times, "
            f"{config.lineage.min_firings} are needed to judge it",
            "add text, raise text.shared_tokens or text.held_out, or train fewer latents",
        )


def _from_corpora(run: Run, config: TrackConfig, root: Path, folder: Path, say: Callable[[str], None]) -> int:
    documents = []
    for spec in config.text.corpora:
        found = load(spec, archives=config.text.archives, seed=run.seed, root=root)
        say(f"{spec.domain}: {len(found)} documents, {sum(d.size_bytes for d in found) / 1e6:.1f} MB")
        documents += found
    half = config.text.held_out / 2
    parts = split(documents, seed=run.seed, fractions=(1 - 2 * half, half, half))
    order = [spec.domain for spec in config.text.corpora]
    held_out = sorted([*parts.validation, *parts.test], key=lambda d: (order.index(d.domain), d.key))
    limits = {"train": config.sae.stream_tokens, "validation": config.sae.evaluation_tokens}
    limits |= {"test": config.sae.evaluation_tokens, "shared": config.text.shared_tokens}
    for name, chosen in {**{name: parts.of(name) for name in NAMES}, "shared": held_out}.items():
        write_stream(
            chosen, folder / "tokenizer" / "tokenizer.json", folder / name, context=config.text.context,
            max_tokens_per_domain=max(config.text.context, limits[name]), spread=True, seed=run.seed,
        )  # fmt: skip
    run.write_table("dropped", parts.dropped)
    opened = {name: TokenStream.open(folder / name) for name in NAMES}
    run.write_table("corpora", corpora_table(parts, opened))
    return len(parts.dropped)


def _from_stream(run: Run, config: TrackConfig, root: Path, folder: Path) -> int:
    whole = TokenStream.open(root / str(config.text.stream))
    train, held_out = cut(whole, config.text.held_out)
    source = f"{whole.digest} {config.text.held_out}"
    parts = {"train": train.head(max(whole.context, config.sae.stream_tokens))}
    parts |= dict.fromkeys(
        ("validation", "test"), held_out.head(max(whole.context, config.sae.evaluation_tokens))
    )
    parts["shared"] = held_out.head(max(whole.context, config.text.shared_tokens))
    for name, stream in parts.items():
        stream.save(folder / name, source_digest=source)
    rows = [
        (domain, name, len(part.documents), 0, part.n_tokens, 0, 0)
        for domain in whole.domains
        for name in ("train", "test")
        for part in [parts["train" if name == "train" else "shared"].of(domain)]
    ]
    columns = ("documents", "bytes", "tokens", "dropped_exact", "dropped_near")
    schema = {"domain": pl.String, "split": pl.String} | dict.fromkeys(columns, pl.Int64)
    run.write_table("corpora", pl.DataFrame(rows, schema=schema, orient="row"))
    return 0


def cut(stream: TokenStream, held_out: float) -> tuple[TokenStream, TokenStream]:
    """Divide a stream into the first and the last blocks of every domain, with no document in both.

    Raises:
        StoreError: a domain is one document, or too short to be divided.
    """
    documents = np.asarray(stream.document).reshape(stream.n_blocks, stream.context)
    first, last = documents[:, 0], documents[:, -1]
    train, rest = np.zeros(stream.n_blocks, bool), np.zeros(stream.n_blocks, bool)
    for number, domain in enumerate(stream.domains):
        blocks = np.flatnonzero(stream.domain_of_block == number)
        border = len(blocks) - max(1, round(held_out * len(blocks)))
        at = blocks[border]
        train[blocks[:border]] = last[blocks[:border]] < first[at]
        rest[blocks[border:]] = True
        if not train[blocks].any():
            raise StoreError(
                f"the stream's {domain} ends in one document that would be trained on and compared on",
                "give text of several documents per domain, or hold out another share",
            )
    return _blocks(stream, train), _blocks(stream, rest)


def _blocks(stream: TokenStream, chosen: Bool[ndarray, " blocks"]) -> TokenStream:
    """Return some blocks of a stream as one of its own; a document's chosen tokens must lie together."""
    tokens = stream.blocks()[chosen].reshape(-1)
    document = np.asarray(stream.document).reshape(stream.n_blocks, stream.context)[chosen].reshape(-1)
    numbers, start, count = np.unique(document, return_index=True, return_counts=True)
    order = np.argsort(start)
    keys, domains = stream.documents["key"].to_list(), stream.documents["domain"].to_list()
    table = pl.DataFrame(
        {
            "key": [keys[i] for i in numbers[order]], "domain": [domains[i] for i in numbers[order]],
            "start": start[order].astype(np.int64), "stop": (start + count)[order].astype(np.int64),
        }
    )  # fmt: skip
    return TokenStream(
        np.ascontiguousarray(tokens), numbered(table), context=stream.context, domains=stream.domains,
        tokenizer_sha256=stream.tokenizer_sha256,
    )  # fmt: skip
