"""The tables of a map, from the Gram matrix of a family: pairs, pictures, clusters and their scores.

A `Survey` is a Gram seen from the base, or from the centre of its members if no base is known.
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.geometry import agreement, hull, kinship
from heredity.geometry.clusters import Clusters, Method, cluster, linkage
from heredity.geometry.layout import Layout, pcoa
from heredity.geometry.nulls import Null, codes, separation_null
from heredity.geometry.similarity import between, chord, cosine, distance
from heredity.gram import Gram, TensorGram

Labels = Mapping[str, Hashable]


class Survey:
    """A family's geometry, computed on demand.

    Attributes:
        gram: task vectors from the base, or from the centroid.
        base_known: whether the reference is the base.
        names: the members.
    """

    def __init__(self, gram: Gram, *, base_known: bool, equal_weight: bool = False) -> None:
        self.gram = gram
        self.base_known = base_known
        self.names = gram.members
        self._equal_weight = equal_weight

    @cached_property
    def total(self) -> TensorGram:
        """The Gram summed over all tensors."""
        return self.gram.total("all", equal_weight=self._equal_weight)["all"]

    @cached_property
    def cosine(self) -> Float[ndarray, "k k"]:
        """Cosines of the task vectors over all tensors."""
        return cosine(self.total.deltas)

    @cached_property
    def directions(self) -> Layout:
        """The plane that keeps the angles between task vectors best."""
        return pcoa(chord(self.cosine))

    @cached_property
    def places(self) -> Layout:
        """The plane that keeps the distances between models best; the base, if known, comes first."""
        return pcoa(distance(self._with_base()))

    def place_names(self) -> tuple[str, ...]:
        """Return the models of `places`, in order."""
        return (self.gram.reference, *self.names) if self.base_known else self.names

    def pairs(self, by: str = "all") -> pl.DataFrame:
        """Return all measures of all pairs, in every group of tensors.

        Columns: group, first, second, cosine, pearson, l2, relative (l2 over the reference's norm), and
        sign_agreement (share of the elements that both changed which they changed in one direction; null if
        elements were not counted).
        """
        first, second = np.triu_indices(len(self.names), 1)
        frames = []
        for group, tensor in self.gram.total(by, equal_weight=self._equal_weight).items():
            norm = float(np.sqrt(tensor.products[0, 0]))
            columns: dict[str, Any] = {
                "group": [group] * len(first),
                "first": [self.names[i] for i in first],
                "second": [self.names[j] for j in second],
            }
            for measure in ("cosine", "pearson", "l2", "relative"):
                if measure == "relative" and norm <= 0:
                    columns[measure] = [None] * len(first)
                    continue
                values = between(
                    tensor.deltas, measure, sums=tensor.sums[1:], size=tensor.size, reference_norm=norm
                )
                columns[measure] = values[first, second]
            columns["sign_agreement"] = self._signs(group, by)[first, second]
            frames.append(pl.DataFrame(columns).with_columns(pl.col("sign_agreement").fill_nan(None)))
        return pl.concat(frames, how="vertical_relaxed")

    def layouts(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the positions of both pictures (picture, model, x, y), and how far to trust each picture."""
        positions, trust = [], []
        for picture, names, drawn in (
            ("directions", self.names, self.directions),
            ("places", self.place_names(), self.places),
        ):
            positions += [
                {"picture": picture, "model": name, "x": float(x), "y": float(y)}
                for name, (x, y) in zip(names, drawn.coordinates, strict=True)
            ]
            trust.append({
                "picture": picture, "stress": drawn.stress, "trustworthiness": _known(drawn.trustworthiness),
                "neighbours": drawn.neighbours,
                "explained_x": float(drawn.explained[0]), "explained_y": float(drawn.explained[1]),
            })  # fmt: skip
        return pl.DataFrame(positions), pl.DataFrame(trust, schema_overrides={"trustworthiness": pl.Float64})

    def dendrogram(self) -> pl.DataFrame:
        """Return the average-linkage tree on chord distances: left, right, height, count; n − 1 rows."""
        rows = linkage(chord(self.cosine)) if len(self.names) > 1 else np.zeros((0, 4))
        return pl.DataFrame(
            {
                "left": rows[:, 0].astype(int),
                "right": rows[:, 1].astype(int),
                "height": rows[:, 2],
                "count": rows[:, 3].astype(int),
            }
        )

    def clusters(self, k: int | None = None, method: Method = "spectral") -> Clusters:
        """Group the members by cosine."""
        return cluster(self.cosine, k, method)

    def scores(
        self, label: str, labels: Labels, *, units: Labels | None = None, draws: int = 1000, seed: int = 0
    ) -> pl.DataFrame:
        """Score clusters against one label, each number with its null, p-value and interval.

        Members without the label are left out. Labels are shuffled between `units` if they are given.
        Intervals leave out whole units, or whole labels without units.

        Columns: label, method, k, score, value, null_mean, null_p95, p_value, low, high, n.

        Raises:
            ConfigError: fewer than two values of the label, or none on two members.
        """
        rows = [index for index, name in enumerate(self.names) if name in labels]
        values = [labels[self.names[index]] for index in rows]
        k = len(dict.fromkeys(values))
        if not 2 <= k < len(values):
            raise ConfigError(
                f"label {label!r} has {k} values on {len(values)} members",
                "a clustering needs two values or more, one of them on two members",
            )
        inside = self.cosine[np.ix_(rows, rows)]
        shuffled = None if units is None else [units[self.names[index]] for index in rows]
        if shuffled is not None and len(dict.fromkeys(shuffled)) == k:
            shuffled = None  # the label names the units themselves: the claim is about their members
        resampled = values if shuffled is None else shuffled
        entries = []
        for method in ("spectral", "average"):
            found = cluster(inside, k, method)
            spread: dict[str, agreement.Interval] = {}
            if len(dict.fromkeys(resampled)) >= 3:
                again = partial(cluster, method=method)
                spread = agreement.intervals(inside, values, again, units=resampled, seed=seed)
            for score in agreement.Agreement.__struct_fields__:
                null = agreement.null(
                    found.labels, values, score=score, units=shuffled, draws=draws, seed=seed
                )
                entry = _entry(label, method, k, score, null, len(values))
                if score in spread:
                    entry |= {"low": spread[score].low, "high": spread[score].high}
                entries.append(entry)
        gap = separation_null(inside, values, units=shuffled, draws=draws, seed=seed)
        entries.append(_entry(label, "none", k, "separation", gap, len(values)))
        tight = agreement.silhouette(chord(inside), codes(values))
        entries.append(_entry(label, "none", k, "silhouette", None, len(values)) | {"value": _known(tight)})
        return pl.DataFrame(entries, schema=_SCORES)

    def kinship(self) -> pl.DataFrame:
        """Return model kinship of all members together, in its three variants: variant, kinship, pairs."""
        upper = len(self.names) * (len(self.names) - 1) // 2
        rows = []
        for variant in ("pearson", "cosine", "euclidean"):
            pairs = kinship.matrix(self.total.deltas, variant, sums=self.total.sums[1:], size=self.total.size)
            rows.append({"variant": variant, "kinship": _known(kinship.kinship(pairs)), "pairs": upper})
        return pl.DataFrame(rows, schema={"variant": pl.String, "kinship": pl.Float64, "pairs": pl.Int64})

    def hulls(self, groups: Mapping[str, Sequence[str]]) -> pl.DataFrame:
        """Measure every member against named groups of members, itself left out of its own.

        Columns: group, member, inside (it is of the group), centroid, hull, spread: in units of the weights.
        """
        rows = []
        for group, members in groups.items():
            indices = [self.names.index(name) for name in members]
            for model, name in enumerate(self.names):
                if [index for index in indices if index != model]:
                    found = hull.distances(self.total.deltas, model, indices)
                    rows.append({
                        "group": group, "member": name, "inside": name in members,
                        "centroid": found.centroid, "hull": found.hull, "spread": found.spread,
                    })  # fmt: skip
        return pl.DataFrame(rows, schema=_HULLS)

    def _with_base(self) -> Float[ndarray, "n n"]:
        deltas = self.total.deltas
        return np.pad(deltas, ((1, 0), (1, 0))) if self.base_known else deltas

    def _signs(self, group: str, by: str) -> Float[ndarray, "k k"]:
        k = len(self.names)
        both, agree = np.zeros((k, k)), np.zeros((k, k))
        chosen = _members_of(self.gram, by).get(group, ())
        for name in chosen:
            if name in self.gram.elements:
                both += self.gram.elements[name].both
                agree += self.gram.elements[name].agree
        return np.divide(agree, both, out=np.full((k, k), np.nan), where=both > 0)


def _members_of(gram: Gram, by: str) -> dict[str, list[str]]:
    """Map each group to its tensors."""
    groups: dict[str, list[str]] = {}
    for name in gram.tensors:
        for group in gram.only(name.__eq__).total(by):
            groups.setdefault(group, []).append(name)
    return groups


def _entry(label: str, method: str, k: int, score: str, null: Null | None, n: int) -> dict[str, Any]:
    entry: dict[str, Any] = dict.fromkeys(_SCORES)
    entry |= {"label": label, "method": method, "k": k, "score": score, "n": n}
    if null is not None:
        entry |= {
            "value": null.observed,
            "null_mean": null.mean,
            "null_p95": null.p95,
            "p_value": null.p_value,
        }
    return entry


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


_SCORES = {
    "label": pl.String, "method": pl.String, "k": pl.Int64, "score": pl.String, "value": pl.Float64,
    "null_mean": pl.Float64, "null_p95": pl.Float64, "p_value": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "n": pl.Int64,
}  # fmt: skip
_HULLS = {
    "group": pl.String, "member": pl.String, "inside": pl.Boolean, "centroid": pl.Float64, "hull": pl.Float64,
    "spread": pl.Float64,
}  # fmt: skip
