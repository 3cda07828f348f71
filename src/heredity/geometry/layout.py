"""Draw models on a plane so that distances are kept as well as a plane can: classical scaling (PCoA).

Stress and trustworthiness say how well, and belong on every such picture. Below some fifty models prefer
this and the dendrogram to t-SNE or UMAP, whose distances mean nothing at that size.
"""

import msgspec
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from heredity.geometry.matrix import checked


class Layout(msgspec.Struct, frozen=True, eq=False):
    """Positions, and how far to trust them.

    Attributes:
        coordinates: float64[n, dimensions]; the axis that explains most first.
        explained: share of the squared distances that each axis carries, of the positive eigenvalues.
        stress: √(Σ (d − d̂)² / Σ d²) over pairs (Kruskal, without monotone regression); 0 is
            perfect.
        trustworthiness: share of neighbours on the map that are neighbours in truth (Venna & Kaski 2001), in
            [0, 1]; NaN with fewer than four models.
        neighbours: how many neighbours trustworthiness looked at; 0 with fewer than four models.
    """

    coordinates: Float[ndarray, "n d"]
    explained: Float[ndarray, "d"]
    stress: float
    trustworthiness: float
    neighbours: int


def pcoa(distances: Float[ndarray, "n n"], dimensions: int = 2) -> Layout:
    """Place models by principal coordinates of their distances.

    The sign of an axis is arbitrary: the model farthest out on it is put on the positive side.

    Source: Gower 1966. Negative eigenvalues (distances no space can hold) are left out.

    Raises:
        ConfigError: the distances are not a symmetric square of finite numbers.
    """
    distances = checked(distances, "distances").copy()
    np.fill_diagonal(distances, 0.0)
    n = len(distances)
    squares = distances**2
    centred = squares - squares.mean(axis=0) - squares.mean(axis=1)[:, None] + squares.mean()
    values, vectors = np.linalg.eigh(-centred / 2)
    order = np.argsort(-values, kind="stable")[:dimensions]
    largest = np.maximum(values[order], 0.0)
    coordinates = np.zeros((n, dimensions))
    coordinates[:, : len(order)] = vectors[:, order] * np.sqrt(largest)
    farthest = np.abs(np.round(coordinates, 12)).argmax(axis=0)
    coordinates *= np.where(coordinates[farthest, np.arange(dimensions)] < 0, -1.0, 1.0)
    total = values[values > 0].sum()
    explained = np.zeros(dimensions)
    if total > 0:
        explained[: len(order)] = largest / total
    trust, neighbours = _trustworthiness(distances, coordinates)
    return Layout(coordinates, explained, _stress(distances, coordinates), trust, neighbours)


def _stress(distances: Float[ndarray, "n n"], coordinates: Float[ndarray, "n d"]) -> float:
    drawn = np.linalg.norm(coordinates[:, None] - coordinates[None], axis=-1)
    total = float((distances**2).sum())
    return float(np.sqrt(((distances - drawn) ** 2).sum() / total)) if total > 0 else 0.0


def _trustworthiness(
    distances: Float[ndarray, "n n"], coordinates: Float[ndarray, "n d"]
) -> tuple[float, int]:
    from sklearn.manifold import trustworthiness

    neighbours = min(5, (len(distances) - 1) // 2)
    if len(distances) < 4:
        return float("nan"), 0
    return float(
        trustworthiness(distances, coordinates, n_neighbors=neighbours, metric="precomputed")
    ), neighbours
