"""How well found clusters fit known labels, what chance would score, and how far one data set decides it."""

from collections.abc import Callable, Hashable, Sequence

import msgspec
import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.optimize import linear_sum_assignment

from heredity import seeds
from heredity.errors import ConfigError
from heredity.geometry.clusters import Clusters
from heredity.geometry.nulls import Null, codes, permuted_labels


class Agreement(msgspec.Struct, frozen=True):
    """Scores of a clustering against labels.

    Attributes:
        accuracy: share of models right under the best one-to-one assignment of clusters to labels.
        macro_f1: mean over labels of F1 under the same assignment; a label without a cluster scores 0.
        ari: adjusted Rand index; 0 by chance, 1 is perfect.
        nmi: normalised mutual information (arithmetic mean), in [0, 1].
    """

    accuracy: float
    macro_f1: float
    ari: float
    nmi: float


class Interval(msgspec.Struct, frozen=True):
    """The middle 95 % of a score over resampled units, and how many units there were."""

    low: float
    high: float
    units: int
    draws: int


def agreement(found: Sequence[Hashable] | ndarray, labels: Sequence[Hashable] | ndarray) -> Agreement:
    """Compare clusters with labels, one of each for every model."""
    found, truth = codes(list(found)), codes(list(labels))
    table, rows, columns = _assigned(found, truth)
    hits = table[rows, columns]
    sizes = table.sum(axis=1)[rows] + table.sum(axis=0)[columns]
    f1 = np.divide(2 * hits, sizes, out=np.zeros(len(hits)), where=sizes > 0)
    return Agreement(
        accuracy=float(hits.sum() / len(truth)),
        macro_f1=float(f1.sum() / len(table)),
        ari=_adjusted_rand(table),
        nmi=_mutual_information(table),
    )


def accuracy(found: Int[ndarray, "n"], labels: Int[ndarray, "n"]) -> float:
    """Return the share of models right under the best one-to-one assignment of clusters to labels."""
    table, rows, columns = _assigned(found, labels)
    return float(table[rows, columns].sum() / len(labels))


def silhouette(distances: Float[ndarray, "n n"], labels: Sequence[Hashable] | ndarray) -> float:
    """Return the mean silhouette, in [−1, 1]; NaN unless there are between 2 and n − 1 groups."""
    from sklearn.metrics import silhouette_score

    numbers = codes(list(labels))
    if not 2 <= len(np.unique(numbers)) < len(numbers):
        return float("nan")
    distances = np.array(distances, dtype=np.float64)
    np.fill_diagonal(distances, 0.0)
    return float(silhouette_score(distances, numbers, metric="precomputed"))


def null(
    found: Int[ndarray, "n"],
    labels: Sequence[Hashable],
    *,
    score: str = "accuracy",
    units: Sequence[Hashable] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Null:
    """Score the same clusters against shuffled labels; between whole units if they are given.

    A given k inflates accuracy: the null's mean says by how much.

    Raises:
        ConfigError: as `nulls.permuted_labels`.
    """

    def measured(shuffled: Int[ndarray, "n"]) -> float:
        if score == "accuracy":
            return accuracy(found, shuffled)
        return float(getattr(agreement(found, shuffled), score))

    return permuted_labels(labels, measured, units=units, draws=draws, seed=seed)


def intervals(
    similarity: Float[ndarray, "n n"],
    labels: Sequence[Hashable],
    clustering: Callable[[Float[ndarray, "m m"], int], Clusters],
    *,
    units: Sequence[Hashable],
    draws: int = 200,
    seed: int = 0,
) -> dict[str, Interval]:
    """Resample units, cluster each sample anew, and return the middle 95 % of every score of `Agreement`.

    Units are drawn with replacement but each counts once: a copy of a model would make a cluster of its own.
        So a
    draw leaves out about a third of the units. k is the number of labels that are left.

    Args:
        similarity: of all models.
        labels: of each model.
        clustering: from similarities and k to clusters, such as `clusters.cluster`.
        units: of each model, such as its data set.
        draws: number of samples that hold at least two labels.
        seed: of the draws.

    Raises:
        ConfigError: fewer than three units: an interval would say nothing.
    """
    of_model = codes(units)
    count = int(of_model.max()) + 1
    if count < 3:
        raise ConfigError(f"{count} units to resample", "an interval needs three units or more")
    if len(dict.fromkeys(labels)) < 2:
        raise ConfigError("all models have one label", "an interval needs two labels or more")
    rng = seeds.generator(seed, "units left out")
    numbers = codes(labels)
    values: list[tuple[float, ...]] = []
    while len(values) < draws:
        drawn = np.unique(rng.integers(count, size=count))
        keep = np.flatnonzero(np.isin(of_model, drawn))
        k = len(np.unique(numbers[keep]))
        if k < 2 or len(keep) < 3:
            continue
        found = clustering(similarity[np.ix_(keep, keep)], k).labels
        values.append(msgspec.structs.astuple(agreement(found, numbers[keep])))
    low, high = np.quantile(np.array(values), [0.025, 0.975], axis=0)
    return {
        score: Interval(float(low[index]), float(high[index]), count, draws)
        for index, score in enumerate(Agreement.__struct_fields__)
    }


def _adjusted_rand(table: Float[ndarray, "l k"]) -> float:
    """Pairs put together in both, against chance (Hubert & Arabie 1985); 1 where neither splits or joins."""

    def pairs(counts: ndarray) -> float:
        return float((counts * (counts - 1)).sum() / 2)

    both, rows, columns = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    total = table.sum() * (table.sum() - 1) / 2
    chance = rows * columns / total if total > 0 else 0.0
    most = (rows + columns) / 2
    return float((both - chance) / (most - chance)) if most > chance else 1.0


def _mutual_information(table: Float[ndarray, "l k"]) -> float:
    """Mutual information over the mean of the two entropies; 1 where both entropies are 0."""
    joint = table / table.sum()
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    seen = joint > 0
    shared = float((joint[seen] * np.log(joint[seen] / np.outer(rows, columns)[seen])).sum())
    entropy = -sum(float((p[p > 0] * np.log(p[p > 0])).sum()) for p in (rows, columns)) / 2
    return max(shared, 0.0) / entropy if entropy > 0 else 1.0


def _assigned(found: ndarray, labels: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    table = np.zeros((int(labels.max()) + 1, int(found.max()) + 1))
    np.add.at(table, (labels, found), 1)
    rows, columns = linear_sum_assignment(-table)
    return table, rows, columns
