"""What an explainer must do: say in words when a latent fires, and predict its activations from the words."""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

from jaxtyping import Float, Int64
from msgspec import Meta, Struct
from numpy import ndarray

from heredity.errors import HeredityError
from heredity.features.codes import Codes
from heredity.features.explain._halves import Halves


class Cost(Struct, frozen=True):
    """What was asked of a service, answers kept from an earlier run included.

    Attributes:
        calls: answers.
        prompt_tokens, completion_tokens: as the service counts them.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


NOTHING = Cost()


class ExplanationError(HeredityError):
    """One latent has no explanation, or its explanation no simulation: the message is the reason.

    Attributes:
        cost: of trying.
    """

    def __init__(self, message: str, hint: str = "", *, cost: Cost = NOTHING) -> None:
        super().__init__(message, hint)
        self.cost = cost


class Simulation(Struct, frozen=True, eq=False):
    """Predicted activations, in any unit, of some windows of the stream, and what they cost."""

    values: Float[ndarray, "windows length"]
    cost: Cost = NOTHING


class Explanation(Struct, frozen=True, eq=False, kw_only=True):
    """Words that say when a latent fires.

    Attributes:
        text: the words.
        cost: of finding them.
    """

    text: str
    cost: Cost = NOTHING

    @abstractmethod
    def simulate(self, halves: Halves, starts: Int64[ndarray, " windows"], length: int) -> Simulation:
        """Predict the activations on the tokens `start … start + length − 1` of every window.

        Nothing of the latent's own activations there may be used.

        Raises:
            ExplanationError: it cannot be done.
        """


class NotExplained(Struct, frozen=True, kw_only=True):
    """Stands where a latent could not be explained, and says why."""

    reason: str
    cost: Cost = NOTHING


class Explainer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way to explain latents, with its settings; a frozen value.

    Attributes:
        nulls: explanations of other latents, drawn at random, that each latent is also scored with.
        windows: held-out windows on which a latent is scored, half of them where it fires; None takes the
            whole held-out half.
    """

    nulls: Annotated[int, Meta(ge=1)] = 10
    windows: Annotated[int, Meta(ge=2)] | None = None

    @abstractmethod
    def explaining(
        self, codes: Codes, latents: Sequence[int], halves: Halves, folder: Path | None
    ) -> AbstractContextManager[list[Explanation | NotExplained]]:
        """Explain some latents of one SAE from the first half of the contexts alone.

        Args:
            codes: of one SAE.
            latents: which, the most wanted first.
            halves: the contexts.
            folder: where answers that were paid for are kept, so that a resumed run does not ask again.

        Returns:
            A context manager that gives one explanation per latent, in order; simulations are asked for inside
            its block.
        """
