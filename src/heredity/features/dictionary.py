"""A consensus written as an SAE: each feature by its medoid, with that latent's own encoder, bias and decoder.

The seeds' b_dec differ. The dictionary has their mean, and each b_enc takes up the difference, so that every
pre-activation is what the latent's own SAE would compute. Which of them fire is decided among fewer rivals
than there: a TopK takes as many latents per token as the medoids fire on average in their own SAEs.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import torch

from heredity.errors import ConfigError, MismatchError
from heredity.features.consensus import Consensus
from heredity.features.sae._sae import SAE


def dictionary(one: Consensus, saes: Sequence[SAE], *, l0: float) -> SAE:
    """Build the SAE of a member's consensus features; latent n is feature n.

    Args:
        one: the consensus.
        saes: the member's SAEs by seed.
        l0: mean firings per token of all medoids together, in their own SAEs.

    Raises:
        ConfigError: there is no consensus feature, or the variant keeps its bias where no difference fits in.
        MismatchError: the SAEs are of different variants or widths.
    """
    used = [saes[s] for s in one.seeds]
    first = used[0]
    if not len(one.medoid):
        raise ConfigError("no consensus feature to write", "lower τ, or train better SAEs")
    if not first.variant.has_b_enc or type(first) is not SAE:
        raise ConfigError(
            f"a consensus of {type(first.variant).__name__} SAEs cannot be written as one SAE",
            "train variants with an encoder bias: l1, topk, batchtopk, jumprelu",
        )
    for sae in used:
        if type(sae.variant) is not type(first.variant) or sae.d_in != first.d_in:
            raise MismatchError(
                f"SAEs of one member: {type(sae.variant).__name__} of {sae.d_in} and "
                f"{type(first.variant).__name__} of {first.d_in}",
                "a consensus is of SAEs of one kind, at one site",
            )
    centre = torch.stack([sae.b_dec for sae in used]).mean(dim=0)
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in ("W_enc", "W_dec", "b_enc", *first.extra)}
    for s, latent in zip(one.medoid_seed.tolist(), one.medoid.tolist(), strict=True):
        sae = saes[s]
        encoder = sae.W_enc[:, latent]
        rows["W_enc"].append(encoder)
        rows["W_dec"].append(sae.W_dec[latent])
        rows["b_enc"].append(sae.b_enc[latent] + (centre - sae.b_dec) @ encoder)
        for name, value in sae.extra.items():
            rows[name].append(value[latent])
    stacked = {name: torch.stack(values) for name, values in rows.items()}
    n = len(one.medoid)
    changes: dict[str, Any] = {"d_sae": n}
    if hasattr(first.variant, "k"):
        changes["k"] = min(n, max(1, round(l0)))
    return SAE(
        variant=msgspec.structs.replace(first.variant, **changes),
        W_enc=stacked.pop("W_enc").T.contiguous(),
        W_dec=stacked.pop("W_dec"),
        b_enc=stacked.pop("b_enc"),
        b_dec=centre,
        extra=stacked,
        metadata={
            **{name: value for name, value in first.metadata.items() if name != "seed"},
            "consensus": {"seeds": list(one.seeds), "needed": one.needed},
        },
    )
