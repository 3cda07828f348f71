"""What the model's loss loses when a latent, or a set of latents, is removed from the activations at the site.

x becomes x + decode(f without the set) − decode(f) = x − Σ f_j W_dec[j]: what the SAE does not explain stays.
Only contexts in which the set fires are computed anew; in all others nothing changes, exactly. Where a token's
activation at the site reaches no other token's prediction (the MLP of a last layer), many sets share one pass,
each at the tokens where it fires: as many passes of a context as sets fire on one of its tokens, at the most.
Whether that is so is tried out on the model itself. Elsewhere a context is run once per set that fires in it.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Float64, Int64
from msgspec import Struct
from numpy import ndarray
from torch import Tensor, nn

from heredity.corpora.tokens import TokenStream
from heredity.errors import ConfigError, MismatchError, StoreError
from heredity.features.evaluate import no_loss
from heredity.features.feed import Feed
from heredity.features.sae._sae import SAE
from heredity.features.sae._variant import Sparse
from heredity.features.site import Edit, Site, editing, reading
from heredity.kernels import sparse
from heredity.models.evaluate import default_batch, token_losses
from heredity.seeds import generator

ALL = "all"
"""Name of all domains together."""


class Ablated(Struct, frozen=True, eq=False):
    """Sums per set and document, so that any mean and its interval follow without another forward pass.

    Attributes:
        domains: names.
        domain: of each document; −1 for one without a token.
        n_tokens: predicted tokens of each document.
        change: loss without the set − loss, summed over a document's tokens, nats [sets, documents].
        moved: the same of absolute changes: how far tokens' losses move, whichever way.
        firings: tokens with a next one on which a latent of the set fires [sets, documents].
        alone: whether sets shared passes.
    """

    domains: tuple[str, ...]
    domain: Int64[ndarray, " documents"]
    n_tokens: Int64[ndarray, " documents"]
    change: Float64[ndarray, "sets documents"]
    moved: Float64[ndarray, "sets documents"]
    firings: Int64[ndarray, "sets documents"]
    alone: bool

    def table(self, *, seed: int = 0, resamples: int = 1000) -> pl.DataFrame:
        """Give every set's loss change per domain, with 95 % intervals by resampling documents within domains.

        Columns: set, domain ("all" for all together), loss_change (nats per token of the domain), low, high
        (null for a domain of one document), moved (mean absolute change, nats per token), firings, per_firing
        (nats per token on which the set fires; null where it fires on none).
        """
        parts, means = [], []
        for index, name in enumerate(self.domains):
            own = np.flatnonzero((self.domain == index) & (self.n_tokens > 0))
            if not len(own):
                continue
            draw = generator(seed, "resample documents", name)
            drawn = draw.multinomial(len(own), np.full(len(own), 1 / len(own)), size=resamples)
            means.append((drawn @ self.change[:, own].T, drawn @ self.n_tokens[own]))
            parts.append(self._part(name, own, *means[-1]))
        everything = np.flatnonzero(self.n_tokens > 0)
        total, n = sum(t for t, _ in means), sum(n for _, n in means)
        if len(parts):
            parts.append(self._part(ALL, everything, np.asarray(total), np.asarray(n)))
        return pl.concat(parts).sort("set", maintain_order=True)

    def _part(
        self,
        name: str,
        own: Int64[ndarray, " some"],
        total: Float64[ndarray, "n sets"],
        n: Float64[ndarray, " n"],
    ) -> pl.DataFrame:
        change, firings = self.change[:, own].sum(axis=1), self.firings[:, own].sum(axis=1)
        low, high = np.percentile(total / n[:, None], [2.5, 97.5], axis=0) + (0 if len(own) > 1 else np.nan)
        return pl.DataFrame(
            {
                "set": np.arange(len(change)), "domain": [name] * len(change),
                "loss_change": change / self.n_tokens[own].sum(), "low": low, "high": high,
                "moved": self.moved[:, own].sum(axis=1) / self.n_tokens[own].sum(), "firings": firings,
                "per_firing": np.where(firings > 0, change / np.maximum(firings, 1), np.nan),
            }
        ).with_columns(pl.col("low", "high", "per_firing").fill_nan(None))  # fmt: skip


def ablate(
    sae: SAE,
    model: nn.Module,
    stream: TokenStream,
    site: str,
    sets: Sequence[Sequence[int]],
    *,
    tokens_per_domain: int | None = None,
    batch_tokens: int | None = None,
) -> Ablated:
    """Measure the loss change of each set of latents on held-out text.

    Args:
        sae: of the site.
        model: a causal language model.
        stream: tokens to score; a context is scored on its own.
        site: where the SAE was trained.
        sets: latents removed together; a latent may be in several sets.
        tokens_per_domain: score so many of each domain, in contexts spread evenly over it; None: all.
        batch_tokens: tokens per forward pass.

    Raises:
        ConfigError: the model has no next-token loss; a set is empty, or names a latent that there is not.
        MismatchError: the activations at the site have another width than the SAE.
        StoreError: the stream is shorter than a context, or a loss is not finite.
    """
    reason = no_loss(model)
    if reason is not None:
        raise ConfigError(f"{type(model).__name__}: {reason}", "ablate latents of causal language models")
    for number, one in enumerate(sets):
        if not one or min(one) < 0 or max(one) >= sae.d_sae:
            raise ConfigError(
                f"set {number} of latents to ablate: {list(one)[:5]}",
                f"name latents from 0 to {sae.d_sae - 1}",
            )
    blocks = stream.blocks()
    if not len(blocks):
        raise StoreError("the token stream is shorter than one context", "give it more text")
    chosen = spread(stream, tokens_per_domain)
    blocks = blocks[chosen]
    work = _Work(sae, Feed(model.eval()), Site.parse(site), stream, chosen, sets, batch_tokens)
    for start in range(0, len(blocks), work.step):
        work.add(start, torch.from_numpy(blocks[start : start + work.step].astype(np.int64)))
    domain = np.full(len(stream.document_keys), -1)
    domain[np.asarray(stream.document)] = np.asarray(stream.domain)
    return Ablated(stream.domains, domain, work.n_tokens, work.change, work.moved, work.firings, work.alone)


def spread(stream: TokenStream, tokens_per_domain: int | None) -> Int64[ndarray, " blocks"]:
    """Choose contexts evenly over each domain, so that every document has its part; at least one a domain."""
    if tokens_per_domain is None:
        return np.arange(stream.n_blocks)
    most, chosen = max(1, tokens_per_domain // stream.context), []
    for number in range(len(stream.domains)):
        own = np.flatnonzero(np.asarray(stream.domain_of_block) == number)
        n = min(len(own), most)
        chosen.append(own[np.arange(n) * len(own) // max(1, n)])
    return np.concatenate(chosen)


def acts_alone(feed: Feed, site: Site, ids: Tensor) -> bool:
    """Try whether what is at the site on one token reaches no other token's logits.

    The activations of one token are replaced, and the logits of all others must stay bit for bit.

    Args:
        feed: the model.
        site: where.
        ids: one context.
    """
    with reading(feed.model, [site]) as seen:
        before = feed.run(ids).logits
        scale = float(seen[site].float().abs().max())
    context = ids.shape[1]
    for at in sorted({0, context // 3}):

        def replace(x: Tensor, at: int = at) -> Tensor:
            rows = x.clone().reshape(context, -1)
            rows[at] = -rows[at] + scale
            return rows.reshape(x.shape)

        with editing(feed.model, {site: replace}):
            after = feed.run(ids).logits
        others = [t for t in range(context) if t != at]
        if torch.equal(before[:, at], after[:, at]) or not torch.equal(before[:, others], after[:, others]):
            return False
    return True


def _without(removed: Float32[Tensor, "rows d_in"]) -> Edit:
    def edit(x: Tensor) -> Tensor:
        return x - removed.to(x).reshape(x.shape)

    return edit


class _Copies(Struct, frozen=True):
    """Contexts to run with something removed.

    A cell is a token on which a set fires; its latents are taken out in one copy of the token's context.

    Attributes:
        block: context of each copy, within the batch.
        cell_copy, cell_place, cell_set: of each cell.
        removed: what is taken out, one row per token of every copy.
    """

    block: Int64[ndarray, " copies"]
    cell_copy: Int64[ndarray, " cells"]
    cell_place: Int64[ndarray, " cells"]
    cell_set: Int64[ndarray, " cells"]
    removed: Sparse


class _Work:
    """The sums, batch by batch."""

    def __init__(
        self,
        sae: SAE,
        feed: Feed,
        site: Site,
        stream: TokenStream,
        chosen: Int64[ndarray, " blocks"],
        sets: Sequence[Sequence[int]],
        batch_tokens: int | None,
    ) -> None:
        self.sae, self.feed, self.site, self.context = sae, feed, site, stream.context
        feed.check(stream)
        device = next(feed.model.parameters()).device
        self.step = max(1, (batch_tokens or default_batch(device)) // stream.context)
        self.owner = np.asarray(stream.document).reshape(-1, stream.context)[chosen].astype(np.int64)
        n_documents = len(stream.document_keys)
        self.change, self.moved = (np.zeros((len(sets), n_documents)) for _ in range(2))
        self.firings = np.zeros((len(sets), n_documents), np.int64)
        self.n_tokens = np.bincount(self.owner[:, 1:].ravel(), minlength=n_documents)
        latent = np.concatenate([np.asarray(one, np.int64) for one in sets] or [np.empty(0, np.int64)])
        order = np.argsort(latent, kind="stable")
        self.sets_of = np.repeat(np.arange(len(sets)), [len(one) for one in sets])[order]
        self.first_set = np.searchsorted(latent[order], np.arange(sae.d_sae + 1))
        self.decoder = sae.W_dec.cpu().numpy()
        first = torch.from_numpy(stream.blocks()[:1].astype(np.int64))
        self.alone = acts_alone(feed, site, first)

    def add(self, start: int, ids: Tensor) -> None:
        """Count one batch of contexts, the first of them number `start` of those chosen."""
        with reading(self.feed.model, [self.site]) as seen:
            clean = self._losses(ids)
            rows = self.feed.rows(seen[self.site], len(ids), self.context, self.site).float().cpu().numpy()
        if rows.shape[1] != self.sae.d_in:
            raise MismatchError(
                f"site {self.site}: activations are {rows.shape[1]} wide, the SAE's W_enc takes {self.sae.d_in}",
                "use the SAE of this site",
            )
        copies = self._copies(self.sae.codes(rows))
        document = self.owner[start + copies.block[copies.cell_copy], copies.cell_place]
        np.add.at(self.firings, (copies.cell_set, document), 1)
        for low in range(0, len(copies.block), self.step):
            high = min(low + self.step, len(copies.block))
            mine = (copies.cell_copy >= low) & (copies.cell_copy < high)
            block, cell = copies.block[low:high], copies.cell_copy[mine] - low
            removed = self._removed(copies.removed, low * self.context, high * self.context)
            with editing(self.feed.model, {self.site: _without(removed)}):
                change = self._losses(ids[block]) - clean[block]
            place, which = copies.cell_place[mine], copies.cell_set[mine]
            if self.alone:
                after = self.owner[start + block[cell], place + 1]
                self._sum(which, after, change[cell, place])
                continue
            first, of_copy = np.full(len(block), self.context), np.zeros(len(block), np.int64)
            np.minimum.at(first, cell, place)
            of_copy[cell] = which
            copy, place = np.nonzero(
                np.arange(self.context - 1) >= first[:, None]
            )  # before it nothing changes
            after = self.owner[start + block[copy], place + 1]
            self._sum(of_copy[copy], after, change[copy, place])

    def _sum(self, which: ndarray, document: ndarray, change: Float64[ndarray, " n"]) -> None:
        np.add.at(self.change, (which, document), change)
        np.add.at(self.moved, (which, document), np.abs(change))

    def _copies(self, codes: Sparse) -> _Copies:
        n_sets = len(self.change)
        token = np.repeat(np.arange(codes.n_tokens), np.diff(codes.indptr))
        token_is_used = token % self.context < self.context - 1  # the last one of a context predicts nothing
        count = np.where(token_is_used, np.diff(self.first_set)[codes.indices], 0)
        entry = np.repeat(np.arange(len(token)), count)
        before = np.cumsum(count) - count
        which = self.sets_of[self.first_set[codes.indices[entry]] + np.arange(len(entry)) - before[entry]]
        cell, of_entry = np.unique(token[entry] * n_sets + which, return_inverse=True)
        cell_token, cell_set = cell // max(1, n_sets), cell % max(1, n_sets)
        block = cell_token // self.context
        nth = np.arange(len(cell)) - np.searchsorted(cell_token, cell_token)  # of the sets on one token
        lane = nth if self.alone else cell_set
        copy, of_cell = np.unique(block * (n_sets + 1) + lane, return_inverse=True)
        place = cell_token % self.context
        row = (of_cell * self.context + place)[of_entry]
        order = np.argsort(row, kind="stable")
        indptr = np.zeros(len(copy) * self.context + 1, np.int64)
        np.cumsum(np.bincount(row, minlength=len(indptr) - 1), out=indptr[1:])
        removed = Sparse(indptr, codes.indices[entry][order], codes.values[entry][order])
        return _Copies(copy // (n_sets + 1), of_cell, place, cell_set, removed)

    def _removed(self, codes: Sparse, start: int, stop: int) -> Float32[Tensor, "rows d_in"]:
        """Decode some rows without the bias."""
        out = np.empty((stop - start, self.sae.d_in), np.float32)
        first, last = codes.indptr[start], codes.indptr[stop]
        sparse.decode_rows(
            codes.indptr[start : stop + 1] - first, codes.indices[first:last], codes.values[first:last],
            self.decoder, np.zeros(self.sae.d_in, np.float32), out,
        )  # fmt: skip
        return torch.from_numpy(out)

    def _losses(self, ids: Tensor) -> Float64[ndarray, "blocks predicted"]:
        logits = self.feed.run(ids).logits[:, :-1].float()
        losses: Float64[ndarray, "blocks predicted"] = (
            token_losses(logits, ids[:, 1:].to(logits.device)).double().cpu().numpy()
        )
        if not np.isfinite(losses).all():
            raise StoreError(
                "the loss is not finite", "a weight or an activation of the model is NaN or infinite"
            )
        return losses
