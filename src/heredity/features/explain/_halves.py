"""The contexts of a stream in two halves: explanations are made on one and scored on the other."""

from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray

from heredity.corpora.tokens import TokenStream
from heredity.features.codes import Codes
from heredity.features.describe import Decode
from heredity.features.latent_statistics import document_positions
from heredity.seeds import generator

Attribute = Literal["token", "previous", "domain", "context", "document", "line"]
ATTRIBUTES: tuple[Attribute, ...] = ("token", "previous", "domain", "context", "document", "line")
LATER = 32
"""Positions are told apart below this one."""
_WINDOW_TOKENS = 64


class Halves:
    """A stream whose contexts are drawn by a key into two halves, equal in every domain.

    Attributes:
        stream: the tokens.
        words: text of every vocabulary entry up to the largest in the stream.
        first: whether each context belongs to the half that explanations are made on.
    """

    def __init__(self, stream: TokenStream, decode: Decode, *, seed: int) -> None:
        self.stream, self.seed = stream, seed
        self.tokens = np.asarray(stream.tokens).astype(np.int64)
        self.words = [decode(i) for i in range(int(self.tokens.max()) + 1)]
        self.first = np.zeros(stream.n_blocks, bool)
        for number, name in enumerate(stream.domains):
            own = np.flatnonzero(stream.domain_of_block == number)
            drawn = generator(seed, "explainer halves", name).permutation(own)
            self.first[drawn[: (len(own) + 1) // 2]] = True
        self._attributes: dict[Attribute, Int64[ndarray, " tokens"]] = {}

    @property
    def window_tokens(self) -> int:
        """Tokens of a window, at most a context."""
        return min(_WINDOW_TOKENS, self.stream.context)

    @cached_property
    def first_tokens(self) -> Bool[ndarray, " tokens"]:
        """Whether each token belongs to the half that explanations are made on."""
        whole = np.zeros(self.stream.n_tokens, bool)
        whole[: len(self.first) * self.stream.context] = np.repeat(self.first, self.stream.context)
        return whole

    def attribute(self, name: Attribute) -> Int64[ndarray, " tokens"]:
        """Return what a rule may look at, for every token of the stream, as a number from 0 on.

        token, previous: vocabulary entry; the previous of a context's first token is `len(words)`: a model sees
        nothing before it. domain. context, document, line: tokens before it there, at most `LATER`.
        """
        if name not in self._attributes:
            self._attributes[name] = self._make(name)
        return self._attributes[name]

    def size(self, name: Attribute) -> int:
        """Return one more than the largest number of an attribute."""
        sizes = {
            "token": len(self.words),
            "previous": len(self.words) + 1,
            "domain": len(self.stream.domains),
        }
        return sizes.get(name, LATER + 1)

    def held_out_contexts(self) -> Int64[ndarray, " windows"]:
        """Return the first tokens of all contexts of the half that explanations are scored on."""
        return np.flatnonzero(~self.first) * self.stream.context

    def held_out_windows(self, codes: Codes, latent: int, n: int) -> Int64[ndarray, " windows"]:
        """Draw windows of the held-out half by a key: half of them where a latent fires, from its strongest down.

        Those where it fires are spread evenly over the ranks of their largest activation; the others are drawn
        from the rest. Fewer than n where there are no more.
        """
        length, context = self.window_tokens, self.stream.context
        per_context = context // length
        tokens, values = codes.of_latent(latent)
        tokens = tokens.astype(np.int64)
        place = tokens % context // length
        usable = ~self.first_tokens[tokens] & (place < per_context)
        window = (tokens // context * per_context + place)[usable]
        names, inverse = np.unique(window, return_inverse=True)
        peak = np.zeros(len(names))
        np.maximum.at(peak, inverse, values[usable])
        ranked = names[np.lexsort((names, -peak))]
        wanted = min(len(ranked), n // 2)
        firing = ranked[np.linspace(0, len(ranked) - 1, wanted).round().astype(np.int64)]
        every = (np.flatnonzero(~self.first)[:, None] * per_context + np.arange(per_context)).ravel()
        others = np.setdiff1d(every, firing, assume_unique=True)
        draw = generator(self.seed, "held-out windows", codes.meta.member, codes.meta.seed, latent)
        drawn = draw.permutation(others)[: n - wanted]
        chosen = np.sort(np.concatenate([firing, drawn]))
        return chosen // per_context * context + chosen % per_context * length

    def _make(self, name: Attribute) -> Int64[ndarray, " tokens"]:
        place = np.arange(self.stream.n_tokens)
        within = place % self.stream.context
        match name:
            case "token":
                return self.tokens
            case "previous":
                before = np.concatenate([self.tokens[:1], self.tokens[:-1]])
                return np.where(within == 0, len(self.words), before)
            case "domain":
                return np.asarray(self.stream.domain).astype(np.int64)
            case "context":
                return np.minimum(within, LATER)
            case "document":
                return np.minimum(document_positions(self.stream), LATER)
            case "line":
                ends = np.array(["\n" in word for word in self.words], bool)[self.tokens]
                starts = document_positions(self.stream) == 0
                starts[1:] |= ends[:-1]
                starts[0] = True
                return np.minimum(place - np.maximum.accumulate(np.where(starts, place, 0)), LATER)
