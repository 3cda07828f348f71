"""Settings of a crosscoder over all members of a family, beside their own SAEs."""

from typing import Annotated

import msgspec
from msgspec import Meta

from heredity.errors import ConfigError
from heredity.features.sae import Crosscoder
from heredity.features.train import Training
from heredity.studies.features.saes import Count, Sae


class CrosscoderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A crosscoder at the site of the SAEs, on the same text; what is not set is as the SAEs have it.

    Attributes:
        latents: dictionary size.
        k: latents that fire per token, on average, for all members together.
        tokens: training tokens, in all.
        learning_rate: Adam's.
        revive: dead latents per token that explain what the others leave; 0 switches revival off.
    """

    latents: Count | None = None
    k: Count | None = None
    tokens: Count | None = None
    learning_rate: Annotated[float, Meta(gt=0)] | None = None
    revive: Annotated[int, Meta(ge=0)] = 64

    def kind(self, sae: Sae, members: tuple[str, ...]) -> Crosscoder:
        """Return the crosscoder as a value.

        Raises:
            ConfigError: more latents are to fire than there are.
        """
        latents, k = self.latents or sae.latents, self.k or sae.k
        if k > latents:
            raise ConfigError(
                f"crosscoder: k = {k:,} of {latents:,} latents - at $.crosscoder",
                "lower crosscoder.k, or raise crosscoder.latents; unset, they are sae.k and sae.latents",
            )
        return Crosscoder(d_sae=latents, k=k, revive=self.revive, members=members)

    def training(self, sae: Sae) -> Training:
        """Return how long and how fast it is trained."""
        tokens = self.tokens or sae.tokens
        return Training(
            tokens=tokens, batch_tokens=sae.batch_tokens, rate=self.learning_rate or sae.learning_rate,
            beta2=sae.beta2, dead_after_tokens=min(100_000, max(1, tokens // 10)),
        )  # fmt: skip
