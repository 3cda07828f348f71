"""Find groups among models: the procedure of arXiv 2302.04863, a hierarchy, and k from the eigengap."""

import warnings
from typing import Literal

import msgspec
import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.geometry.matrix import checked
from heredity.geometry.similarity import chord

Method = Literal["spectral", "average", "complete", "single"]


class Clusters(msgspec.Struct, frozen=True, eq=False):
    """A grouping.

    Attributes:
        labels: cluster of each model, 0 … k−1 by first appearance.
        k: number of clusters asked for; discretising may leave one of them empty.
        eigengap_k: what the eigengap would choose.
        method: how the groups were made.
        notes: what the numerics complained about, such as a graph in several pieces.
    """

    labels: Int[ndarray, "n"]
    k: int
    eigengap_k: int
    method: str
    notes: tuple[str, ...] = ()


class Affinity(msgspec.Struct, frozen=True, eq=False):
    """Similarities made from distances, and the rule that made them."""

    values: Float[ndarray, "n n"]
    rule: str


def cluster(similarity: Float[ndarray, "n n"], k: int | None = None, method: Method = "spectral") -> Clusters:
    """Group models by similarity.

    Args:
        similarity: larger is more alike. For `spectral` any scale; the hierarchies take cosines.
        k: number of clusters; None takes the eigengap's.
        method: "spectral" (as arXiv 2302.04863), or the linkage of a hierarchy on the chord distance.

    Raises:
        ConfigError: the matrix is not a symmetric square of finite numbers, or k is not in 1 … n.

    Source: arXiv 2302.04863, released code: `SpectralClustering(n_clusters=k, assign_labels="discretize",
    random_state=0, affinity="precomputed")` on S, or on (S + 1)/2 if min(S) < 0.
    """
    similarity = checked(similarity, "similarity")
    found = eigengap(similarity)
    chosen = found if k is None else k
    if not 1 <= chosen <= len(similarity):
        raise ConfigError(
            f"k = {chosen} clusters of {len(similarity)} models", f"choose k in 1 … {len(similarity)}"
        )
    if chosen == 1 or chosen == len(similarity):
        labels = np.zeros(len(similarity), int) if chosen == 1 else np.arange(len(similarity))
        return Clusters(labels, chosen, found, method)
    if method == "spectral":
        labels, notes = _spectral(affinity(similarity), chosen)
        return Clusters(_by_appearance(labels), chosen, found, method, notes)
    from scipy.cluster.hierarchy import fcluster

    labels = fcluster(linkage(chord(np.clip(similarity, -1, 1)), method), chosen, criterion="maxclust")
    return Clusters(_by_appearance(labels), chosen, found, method)


def affinity(similarity: Float[ndarray, "n n"]) -> Float[ndarray, "n n"]:
    """Return the similarities, shifted to (S + 1)/2 if any is negative."""
    return (similarity + 1) / 2 if similarity.min() < 0 else similarity


def affinity_of_distances(distances: Float[ndarray, "n n"]) -> Affinity:
    """Turn distances into similarities: exp(−D²/2), or 1 − D/max(D) if its median underflows to 0.

    On task vectors both fail, because the norm follows the length of training: prefer the cosine.

    Source: arXiv 2302.04863, released code.
    """
    distances = checked(distances, "distances")
    values = np.exp(-(distances**2) / 2)
    if np.median(values) > 0:
        return Affinity(values, "exp(−D²/2)")
    return Affinity(1 - distances / distances.max(), "1 − D/max(D), as the median of exp(−D²/2) is 0")


def eigengap(similarity: Float[ndarray, "n n"]) -> int:
    """Return the number of groups where the spectrum of the graph Laplacian leaps, in 1 … n/2.

    All task vectors of a family share something, so that every pair is a little alike. That background (the
    median of the lower of the two classes that the similarities fall into, Otsu 1979) is taken off first;
    otherwise the first gap always wins. Groups of one model do not count: nothing tells them from noise.

    Source: von Luxburg 2007, section 8.3, on the symmetric normalised Laplacian.
    """
    n = len(similarity)
    if n < 4:
        return 1
    graph = np.maximum(similarity - _background(similarity[np.triu_indices(n, 1)]), 0.0)
    np.fill_diagonal(graph, 0.0)
    degree = graph.sum(axis=0)
    scale = np.divide(1.0, np.sqrt(degree), out=np.zeros(n), where=degree > 0)
    spectrum = np.linalg.eigvalsh(np.eye(n) - scale[:, None] * graph * scale[None, :])
    return int(np.diff(spectrum)[: n // 2].argmax()) + 1


def linkage(distances: Float[ndarray, "n n"], method: str = "average") -> Float[ndarray, "m 4"]:
    """Merge the nearest groups again and again; rows as scipy's linkage, n − 1 of them."""
    from scipy.cluster.hierarchy import linkage as scipy_linkage
    from scipy.spatial.distance import squareform

    tree: Float[ndarray, "m 4"] = scipy_linkage(squareform(distances, checks=False), method)
    return tree


def _spectral(graph: Float[ndarray, "n n"], k: int) -> tuple[ndarray, tuple[str, ...]]:
    from sklearn.cluster import SpectralClustering

    method = SpectralClustering(
        n_clusters=k, assign_labels="discretize", random_state=0, affinity="precomputed"
    )
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        labels = method.fit_predict(graph)
    return labels, tuple(dict.fromkeys(str(complaint.message).split(". ")[0] for complaint in complaints))


def _by_appearance(labels: ndarray) -> Int[ndarray, "n"]:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def _background(pairs: Float[ndarray, "pairs"]) -> float:
    """Split numbers where the variance between the two parts is largest; return the lower part's median."""
    ordered = np.sort(pairs)
    below = np.arange(1, len(ordered))
    total = ordered.cumsum()
    gap = total[:-1] / below - (total[-1] - total[:-1]) / (len(ordered) - below)
    cut = int((below * (len(ordered) - below) * gap**2).argmax()) + 1
    return float(np.median(ordered[:cut]))
