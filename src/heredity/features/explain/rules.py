"""Rules: the plain statement that best marks where a latent fires, found by search, without any model.

A rule says what the token is (one of a few, a class of characters, how it begins or ends), what the token before
it is, where it stands (among the first of the context, the document or the line) or in which domain; or two of
these together. Its simulation is 1 where it holds and 0 elsewhere.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Int64
from msgspec import Meta
from numpy import ndarray

from heredity.features.codes import Codes
from heredity.features.explain._conditions import Condition, in_words
from heredity.features.explain._explainer import Explainer, Explanation, NotExplained, Simulation
from heredity.features.explain._halves import Halves
from heredity.features.explain._search import Search


class Rule(Explanation, frozen=True, eq=False, kw_only=True):
    """Conditions that hold together."""

    conditions: tuple[Condition, ...]

    def simulate(self, halves: Halves, starts: Int64[ndarray, " windows"], length: int) -> Simulation:
        """Return 1 where all conditions hold."""
        at = starts[:, None] + np.arange(length)
        holds = np.ones(at.shape, bool)
        for condition in self.conditions:
            holds &= condition.marks[halves.attribute(condition.attribute)[at]]
        return Simulation(holds.astype(np.float32))


class Rules(Explainer, frozen=True, kw_only=True):
    """Search the rule with the best r on one half of the contexts.

    Attributes:
        beam: first conditions to which a second is tried.
        penalty: r that a second condition must add.
        list_penalty: r that each doubling of a list of tokens must add.
    """

    beam: Annotated[int, Meta(ge=0)] = 6
    penalty: Annotated[float, Meta(ge=0)] = 0.03
    list_penalty: Annotated[float, Meta(ge=0)] = 0.01

    @contextmanager
    def explaining(
        self, codes: Codes, latents: Sequence[int], halves: Halves, folder: Path | None
    ) -> Iterator[list[Explanation | NotExplained]]:
        """Give a rule for every latent; one that does not fire on the first half has none."""
        search = Search(halves, beam=self.beam, penalty=self.penalty, list_penalty=self.list_penalty)
        yield [self._explain(search, codes, latent) for latent in latents]

    def _explain(self, search: Search, codes: Codes, latent: int) -> Explanation | NotExplained:
        conditions = search.best(codes, latent)
        if not conditions:
            return NotExplained(
                reason="no rule marks it on the half of the contexts where rules are searched"
            )
        return Rule(text=in_words(conditions, search.halves.stream.domains), conditions=conditions)
