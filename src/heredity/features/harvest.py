"""Run a model over the shared stream and keep what passes a site.

Resumable: shards on disk are kept, the others are computed. The forward pass stops at the last site.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

from heredity.corpora.tokens import TokenStream
from heredity.errors import ConfigError, MismatchError, StoreError
from heredity.features.feed import Ends, Feed
from heredity.features.site import EnoughError, Site, reading
from heredity.features.store import DTYPES, ActivationStore, StoreMeta, StoreWriter, check_room
from heredity.seeds import key

_SHARD_TOKENS = 65_536
_HALF_MAX = 65_504.0
Progress = Callable[[int], None]


def harvest(
    model: nn.Module,
    stream: TokenStream,
    site: str,
    out: Path | str,
    *,
    member: str = "model",
    dtype: str = "float16",
    batch_tokens: int = 8192,
    ends: Ends | None = None,
    progress: Progress | None = None,
) -> ActivationStore:
    """Store the activations at one site for every token of a stream; see `harvest_sites`."""
    return harvest_sites(
        model,
        stream,
        {site: Path(out)},
        member=member,
        dtype=dtype,
        batch_tokens=batch_tokens,
        ends=ends,
        progress=progress,
    )[site]


def harvest_sites(
    model: nn.Module,
    stream: TokenStream,
    outs: Mapping[str, Path],
    *,
    member: str = "model",
    dtype: str = "float16",
    batch_tokens: int = 8192,
    ends: Ends | None = None,
    progress: Progress | None = None,
) -> dict[str, ActivationStore]:
    """Store the activations at several sites in one pass over a stream.

    Args:
        model: any transformers model; used where it is, in evaluation mode.
        stream: the tokens; every block is one sequence.
        outs: folder of each site, e.g. `{"model.layers.0.mlp.down_proj:input": Path("base/mlp")}`.
        member: name of the model in messages and records.
        dtype: float16 or float32 on disk.
        batch_tokens: tokens of one forward pass, rounded down to whole blocks.
        ends: [CLS] and [SEP], put around every block; their own rows are not kept.
        progress: called with the number of tokens of each finished batch.

    Raises:
        ConfigError: a site does not exist (the nearest names are in the hint), or the dtype is unknown.
        StoreError: an activation is not finite, or too large for float16.
        MismatchError: a folder holds activations of something else, or the stream is not for this model.
        DiskFullError: the disk is too small for all sites together; found before starting.
    """
    if dtype not in DTYPES:
        raise ConfigError(
            f"dtype {dtype!r}: activations are kept as float16 or float32", "choose one of the two"
        )
    if stream.n_blocks == 0:
        raise StoreError(
            "the token stream is shorter than one context", "give it more text, or a shorter context"
        )
    sites = {text: Site.parse(text) for text in outs}
    feed = Feed(model.eval(), ends)
    feed.check(stream)
    widths = _widths(feed, stream, list(sites.values()))
    context, digest = stream.context, model_digest(model)
    shard_tokens = max(1, _SHARD_TOKENS // context) * context
    writers = {
        text: StoreWriter(
            Path(outs[text]),
            StoreMeta(
                member=member, model_digest=digest, site=text, stream_digest=stream.digest, context=context,
                n_tokens=stream.n_blocks * context, d=widths[site], dtype=dtype, shard_tokens=shard_tokens,
                ends=ends,
            ),
        )
        for text, site in sites.items()
    }  # fmt: skip
    if writers:
        check_room(next(iter(writers.values())).path, sum(w.need_bytes for w in writers.values()))
    blocks = stream.blocks()
    step = max(1, batch_tokens // context)
    for shard in sorted({i for writer in writers.values() for i in writer.missing}):
        first, last = next(iter(writers.values())).meta.rows_of(shard)
        parts: dict[Site, list[Float[ndarray, "tokens d"]]] = {site: [] for site in sites.values()}
        for start in range(first // context, last // context, step):
            batch = blocks[start : min(start + step, last // context)]
            for site, rows in _forward(feed, batch, list(sites.values())).items():
                _check(rows, dtype, f"{member}, {site}: shard {shard}, step {start // step}")
                parts[site].append(rows.numpy())
            if progress:
                progress(batch.size)
        for text, writer in writers.items():
            if shard in writer.missing:
                writer.write(shard, np.concatenate(parts[sites[text]]))
    return {text: writer.finish() for text, writer in writers.items()}


def model_digest(model: nn.Module) -> str:
    """Return a short fingerprint of a model's parameters: names, shapes, sums and sums of squares."""
    facts: list[object] = []
    for name, value in model.named_parameters():
        data = value.detach().float()
        facts += [name, tuple(value.shape), float(data.sum()), float(data.square().sum())]
    return f"{key(0, *facts):016x}"


def _forward(feed: Feed, batch: ndarray, sites: list[Site]) -> dict[Site, Tensor]:
    blocks = torch.from_numpy(batch.astype(np.int64))
    enough = contextlib.suppress(EnoughError)  # the layers above the last site are not needed
    with reading(feed.model, sites, stop_early=True) as seen, enough:
        feed.run(blocks)
    lost = [site for site in sites if site not in seen]
    if lost:
        raise MismatchError(f"site {lost[0]}: nothing passes it", "choose a module that the model uses")
    return {site: feed.rows(seen[site], batch.shape[0], batch.shape[1], site).float().cpu() for site in sites}


def _widths(feed: Feed, stream: TokenStream, sites: list[Site]) -> dict[Site, int]:
    return {site: rows.shape[1] for site, rows in _forward(feed, stream.blocks()[:2], sites).items()}


def _check(rows: Tensor, dtype: str, where: str) -> None:
    if not bool(torch.isfinite(rows).all()):
        raise StoreError(
            f"{where}: activations are not finite", "the model is broken, or overflows in its dtype"
        )
    if dtype == "float16" and float(rows.abs().max()) > _HALF_MAX:
        raise StoreError(
            f"{where}: activations too large for float16",
            "keep them as float32: --keep float32, or sae.keep in settings",
        )
