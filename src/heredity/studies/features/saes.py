"""Settings of a family's SAEs: which kind, how many, trained how."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from heredity.errors import ConfigError
from heredity.features.sae import Variant, kind_named, make

Count = Annotated[int, Meta(ge=1)]


class Sae(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sparse autoencoders at one site of every member.

    Attributes:
        site: module path and side.
        latents: dictionary size.
        variant: kind of the SAEs that are followed.
        options: the kind's own settings, beside d_sae and k; `heredity train --variants` lists them.
        k: latents that fire per token, of BatchTopK on average; of kinds without a k only the guess at their L0
            by which a run is judged before it begins.
        init: "parent" begins the SAE of seed s of a child at that of its first parent; the root's are random.
        seeds: independent SAEs per member; at least two, so that every edge has its ceiling.
        tokens: training tokens drawn from the stream, in all (repeated in a new order when it is shorter).
        batch_tokens: tokens per step.
        learning_rate: Adam's.
        beta2: Adam's.
        dtype: in which a TopK's latents are nominated; the result is that of float32 (`features.train.Training`).
        l1: L1 coefficient of the base's ReLU SAE, for comparison only; none without.
        mix: "shared" trains every SAE on the same tokens of all domains; "cumulative" on the domains that its
            member has seen, as the paper does.
        stream_tokens: distinct training tokens harvested per domain.
        evaluation_tokens: held-out tokens per domain on which quality is measured.
        keep: number format of activations on disk.
    """

    site: str
    latents: Count
    variant: Literal["topk", "batchtopk", "jumprelu", "gated", "l1"] = "topk"
    options: dict[str, Any] = {}
    k: Count = 32
    init: Literal["random", "parent"] = "random"
    seeds: Annotated[int, Meta(ge=2)] = 2
    tokens: Count
    batch_tokens: Count = 2048
    learning_rate: Annotated[float, Meta(gt=0)] = 1e-3
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    dtype: Literal["float32", "bfloat16"] = "float32"
    l1: Annotated[float, Meta(gt=0)] | None = None
    mix: Literal["shared", "cumulative"] = "shared"
    stream_tokens: Count = 100_000
    evaluation_tokens: Count = 16_000
    keep: Literal["float16", "float32"] = "float16"

    @property
    def has_k(self) -> bool:
        """Whether the kind has a k."""
        return "k" in kind_named(self.variant).__struct_fields__

    @property
    def kind(self) -> Variant:
        """The SAEs that are followed, as a value.

        Raises:
            ConfigError: an option that the kind has not, needs, or cannot take.
        """
        own = {"k": self.k} if self.has_k else {}
        return make(self.variant, {"d_sae": self.latents, **own, **self.options})


def check_saes(sae: Sae, name: str) -> None:
    """Check what no single field says.

    Raises:
        ConfigError: options that the kind does not take, a k above the number of latents, or an L1 SAE for
            comparison beside L1 SAEs.
    """
    for option, field in (("d_sae", "latents"), ("k", "k")):
        if option in sae.options:
            raise ConfigError(f"{name}: {option} is sae.{field} - at $.sae.options", f"set sae.{field}")
    if sae.has_k and sae.k > sae.latents:
        raise ConfigError(
            f"{name}: k = {sae.k:,} of {sae.latents:,} latents - at $.sae.k",
            "lower sae.k, or raise sae.latents",
        )
    try:
        _ = sae.kind
    except ConfigError as error:
        what, _, at = error.message.partition(" - at $")
        raise ConfigError(f"{name}: {what} - at $.sae.options{at}", error.hint) from None
    if sae.variant == "l1" and sae.l1 is not None:
        raise ConfigError(
            f"{name}: sae.l1 is an L1 SAE beside those of another kind, and these are L1 - at $.sae.l1",
            "the penalty of SAEs that are followed is sae.options.l1; take sae.l1 out (--set sae.l1=)",
        )
