"""What chance scores: the number beside every number.

Two kinds. Labels are shuffled: between data sets when a claim is about data sets, never between the models
of one. Elements are shuffled: had two tensors nothing to do with each other, every pairing of their elements
would be as likely as the one observed; the mean and variance of the inner product over all pairings are
known in closed form from the Gram matrix and the sums, so that no weight is read again.
"""

from collections.abc import Callable, Hashable, Sequence

import msgspec
import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.special import ndtr

from heredity import seeds
from heredity.errors import ConfigError
from heredity.geometry.similarity import separation


class Null(msgspec.Struct, frozen=True):
    """An observed number and what chance gives.

    Attributes:
        observed: the number.
        mean: its mean under the null.
        p95: its 95th percentile under the null.
        p_value: chance of a number at least as large, (1 + count) / (1 + draws); in (0, 1].
        draws: how many times chance was asked.
    """

    observed: float
    mean: float
    p95: float
    p_value: float
    draws: int


def compare(observed: float, chance: Float[ndarray, "draws"]) -> Null:
    """Put a number beside draws of the null; larger numbers are the more surprising ones."""
    exceed = int(np.count_nonzero(chance >= observed - 1e-12))
    p_value = (1 + exceed) / (1 + len(chance))
    return Null(float(observed), float(chance.mean()), float(np.quantile(chance, 0.95)), p_value, len(chance))


def codes(labels: Sequence[Hashable]) -> Int[ndarray, "n"]:
    """Number labels 0, 1, … by first appearance."""
    first = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    return np.array([first[label] for label in labels], dtype=np.int64)


def permuted_labels(
    labels: Sequence[Hashable],
    score: Callable[[Int[ndarray, "n"]], float],
    *,
    units: Sequence[Hashable] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Null:
    """Score shuffled labels.

    Args:
        labels: of each model; what the claim is about.
        score: from label codes int64[n] to a number, larger for a better fit.
        units: of each model, such as its data set: then labels move between whole units. A unit has one
            label.
        draws: number of shuffles.
        seed: of the shuffles.

    Raises:
        ConfigError: a unit has two labels, or every unit has a label of its own, so that a shuffle only
            renames.
    """
    numbers = codes(labels)
    of_model, of_unit = np.arange(len(numbers)), numbers
    if units is not None:
        of_model = codes(units)
        if len(of_model) != len(numbers):
            raise ConfigError(
                f"{len(numbers)} labels but {len(of_model)} units", "give one unit for each model"
            )
        of_unit = np.zeros(of_model.max() + 1, dtype=np.int64)
        of_unit[of_model] = numbers
        if (of_unit[of_model] != numbers).any():
            raise ConfigError(
                "a unit has two labels", "shuffling between units needs one label for each unit"
            )
        if len(np.unique(of_unit)) == len(of_unit):
            raise ConfigError(
                "every unit has its own label: a shuffle would only rename them",
                "leave units out: then labels are shuffled between models",
            )
    rng = seeds.generator(seed, "permuted labels")
    chance = np.array([score(rng.permutation(of_unit)[of_model]) for _ in range(draws)])
    return compare(score(numbers), chance)


def separation_null(
    similarity: Float[ndarray, "n n"],
    labels: Sequence[Hashable],
    *,
    units: Sequence[Hashable] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Null:
    """Test whether models of one label are more alike: mean similarity within labels minus between labels.

    Raises:
        ConfigError: there is no pair within a label, or none between two.
    """
    numbers = codes(labels)
    if not np.isfinite(separation(similarity, numbers)).all():
        raise ConfigError(
            "the labels leave no pair to compare", "at least two labels, one of them on two models"
        )

    def gap(of_model: Int[ndarray, "n"]) -> float:
        within, apart = separation(similarity, of_model)
        return within - apart

    return permuted_labels(labels, gap, units=units, draws=draws, seed=seed)


def shuffled_elements(
    products: Float[ndarray, "t k k"], sums: Float[ndarray, "t k"], sizes: Int[ndarray, "t"]
) -> tuple[Float[ndarray, "k k"], Float[ndarray, "k k"]]:
    """Return mean and standard deviation of every inner product, had elements been paired at random.

    Within each tensor, over all pairings: mean = s_i s_j / n, and
    variance = (G_ii − s_i²/n)(G_jj − s_j²/n) / (n − 1); tensors add up. Elements of real tensors are not
    wholly exchangeable (rows and columns have scales of their own): read the deviation beside the effect.
    """
    counts = np.asarray(sizes, dtype=np.float64)
    mean = (sums[:, :, None] * sums[:, None, :] / counts[:, None, None]).sum(axis=0)
    spread = np.maximum(np.diagonal(products, axis1=1, axis2=2) - sums**2 / counts[:, None], 0.0)
    variance = spread[:, :, None] * spread[:, None, :] / np.maximum(counts - 1, 1)[:, None, None]
    return mean, np.sqrt(variance.sum(axis=0))


def relatedness(
    products: Float[ndarray, "t k k"], sums: Float[ndarray, "t k"], sizes: Int[ndarray, "t"]
) -> tuple[Float[ndarray, "k k"], Float[ndarray, "k k"], Float[ndarray, "k k"]]:
    """Correlate tensors element by element and test the correlation against shuffled elements.

    Give the products of task vectors to compare what was learned, of raw weights to compare what was
    inherited.

    Returns:
        correlation (pooled over tensors, each about its own mean), z score, one-sided p-value.
    """
    mean, deviation = shuffled_elements(products, sums, sizes)
    excess = products.sum(axis=0) - mean
    scale = np.sqrt(np.maximum(np.diagonal(excess), 0.0))
    norms = np.outer(scale, scale)
    correlation = np.clip(np.divide(excess, norms, out=np.zeros_like(excess), where=norms > 0), -1.0, 1.0)
    z = np.divide(excess, deviation, out=np.zeros_like(excess), where=deviation > 0)
    return correlation, z, ndtr(-z)
