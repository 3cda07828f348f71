"""Model kinship: one number for how related the models of a merge are, in three variants.

    r = 2 / (n (n − 1)) · Σ_{i<j} sim(Δ_i, Δ_j),      Δ = w − w_base, flattened

    pearson    sim = (⟨Δ_i, Δ_j⟩ − s_i s_j / n) / √((‖Δ_i‖² − s_i²/n)(‖Δ_j‖² − s_j²/n))
    cosine     sim = ⟨Δ_i, Δ_j⟩ / (‖Δ_i‖ ‖Δ_j‖)
    euclidean  sim = ‖Δ_i − Δ_j‖₂          a distance: smaller is more kin

Source: arXiv 2410.12613, section 3. Its released code takes the square root of the squared cosine, that is
|cosine|; here the sign is kept, as in the paper.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.geometry.similarity import cosine, distance, pearson

Variant = Literal["pearson", "cosine", "euclidean"]
VARIANTS: tuple[str, ...] = get_args(Variant)


def matrix(
    products: Float[ndarray, "k k"],
    variant: Variant,
    *,
    sums: Float[ndarray, "k"] | None = None,
    size: int = 0,
) -> Float[ndarray, "k k"]:
    """Return sim(Δ_i, Δ_j) for every pair.

    Args:
        products: inner products of the task vectors, relative to the base.
        variant: "pearson", "cosine" or "euclidean".
        sums: sum of each task vector, for pearson.
        size: number of elements, for pearson.

    Raises:
        ConfigError: pearson without sums and size.
    """
    if variant == "pearson":
        if sums is None or size < 1:
            raise ConfigError(
                "pearson kinship needs the sums and the number of elements", "pass sums= and size="
            )
        return pearson(products, sums, size)
    return cosine(products) if variant == "cosine" else distance(products)


def kinship(pairs: Float[ndarray, "k k"]) -> float:
    """Return r, the mean of a kinship matrix over its pairs; NaN for one model."""
    upper = pairs[np.triu_indices(len(pairs), 1)]
    return float(upper.mean()) if upper.size else float("nan")
