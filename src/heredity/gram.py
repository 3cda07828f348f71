"""The Gram matrix of a family: everything linear about K models, from one streamed pass over their weights.

Per tensor, the inner products of [w_ref, Δ_1 … Δ_K] with Δ_i = w_i − w_ref, and their sums. Products of the
weights themselves follow as ⟨w_i, w_j⟩ = ⟨Δ_i, Δ_j⟩ + ⟨Δ_i, w_ref⟩ + ⟨Δ_j, w_ref⟩ + ‖w_ref‖²; never the
other way round, since differences taken from a raw Gram cancel (‖Δ‖²/‖w‖² ≈ 1e-6).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from heredity.anatomy import kind_of, layer_of
from heredity.errors import ConfigError

GROUPINGS = ("all", "layer", "kind", "tensor")


class TensorGram(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Inner products of one tensor (or of a sum of tensors) of a reference and K members.

    Leading axes, if any, are a batch: one Gram matrix for each row of a tensor.

    Attributes:
        name: of the tensor or group.
        shape: of the tensor; (size,) for a group.
        size: number of elements (for each Gram of a batch).
        members: the K names; a member that is the reference itself has a row of zeros.
        products: inner products of [w_ref, Δ_1 … Δ_K].
        sums: sums of the elements of w_ref, Δ_1 … Δ_K.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    members: tuple[str, ...]
    products: Float64[ndarray, "*batch k1 k1"]
    sums: Float64[ndarray, "*batch k1"]

    def raw(self) -> Float64[ndarray, "*batch k1 k1"]:
        """Return the inner products of the weights themselves, [w_ref, w_1 … w_K]."""
        cross = self.products[..., :1, :].copy()  # ⟨w_ref, Δ_j⟩, and ‖w_ref‖² first
        square = cross[..., :, :1].copy()
        cross[..., 0] = 0
        deltas = self.products.copy()
        deltas[..., 0, :] = 0
        deltas[..., :, 0] = 0
        return deltas + cross + np.swapaxes(cross, -1, -2) + square

    def raw_sums(self) -> Float64[ndarray, "*batch k1"]:
        """Return the sums of the weights themselves, [w_ref, w_1 … w_K]."""
        sums = self.sums + self.sums[..., :1]
        sums[..., 0] = self.sums[..., 0]
        return sums

    @property
    def deltas(self) -> Float64[ndarray, "*batch k k"]:
        """Inner products of the task vectors alone, [Δ_1 … Δ_K]."""
        return self.products[..., 1:, 1:]

    def combined(self, matrix: Float64[ndarray, "m1 k1"], members: Sequence[str]) -> "TensorGram":
        """Return the Gram of other vectors: the rows of `matrix` over [w_ref, Δ_1 … Δ_K], as C G Cᵀ.

        Args:
            matrix: the new reference in row 0, then the new task vectors.
            members: names of rows 1 ….
        """
        products = matrix @ self.products @ matrix.T
        products = (products + np.swapaxes(products, -1, -2)) / 2
        return msgspec.structs.replace(
            self, members=tuple(members), products=products, sums=self.sums @ matrix.T
        )


class ElementCounts(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What the same pass counted, element by element, in one tensor.

    Attributes:
        unchanged: elements equal to the reference's.
        both: elements that both members changed (the diagonal: that the member changed).
        agree: of those, changed in the same direction by both.
    """

    unchanged: Int64[ndarray, "k"]
    both: Int64[ndarray, "k k"]
    agree: Int64[ndarray, "k k"]


class Gram(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Gram matrices of all tensors of a family.

    Attributes:
        reference: name of what task vectors start from.
        members: the K names.
        tensors: name → `TensorGram`, in order of name.
        elements: name → `ElementCounts`; empty unless they were asked for, and after a change of reference.
        dtypes: model name → dtype in which most of its weights are stored.
        left_out: tensor or member and tensor → why it is not in the Gram.

    >>> gram = Gram.compute(Family.load("family.toml"))
    >>> gram.total()["all"].deltas.shape
    (8, 8)
    """

    reference: str
    members: tuple[str, ...]
    tensors: dict[str, TensorGram]
    elements: dict[str, ElementCounts] = {}
    dtypes: dict[str, str] = {}
    left_out: dict[str, str] = {}

    @classmethod
    def compute(cls, family: Any, **options: Any) -> "Gram":
        """Measure a family in one pass over its files: see `heredity.measure.measure` for the options."""
        from heredity.measure import measure

        return measure(family, **options)

    @classmethod
    def load(cls, path: Path | str) -> "Gram":
        """Read what `save` wrote.

        Raises:
            CheckpointError: missing or damaged.
        """
        from heredity.gramfile import load

        return load(Path(path))[0]

    def save(self, path: Path | str) -> Path:
        """Write one file, whole or not at all."""
        from heredity.gramfile import save

        return save(self, Path(path))

    def select(self, members: Sequence[str]) -> "Gram":
        """Return the Gram of some members, in the order given.

        Raises:
            ConfigError: one is not in the Gram.
        """
        rows = [self._row(member) for member in members]
        keep = np.array(rows, np.int64) - 1
        counts = {
            name: ElementCounts(
                unchanged=c.unchanged[keep],
                both=c.both[np.ix_(keep, keep)],
                agree=c.agree[np.ix_(keep, keep)],
            )
            for name, c in self.elements.items()
        }
        chosen = self._each(lambda t: _rows(t, [0, *rows], members), members=tuple(members))
        return msgspec.structs.replace(chosen, elements=counts)

    def only(self, keep: Callable[[str], bool]) -> "Gram":
        """Return the Gram of the tensors whose name `keep` accepts."""
        return msgspec.structs.replace(
            self,
            tensors={name: t for name, t in self.tensors.items() if keep(name)},
            elements={name: c for name, c in self.elements.items() if keep(name)},
        )

    def rebase(self, reference: str) -> "Gram":
        """Return the Gram with task vectors from another member, by C G Cᵀ, without reading a weight.

        The member's place among the members is taken by the old reference, unless that is a member already.

        Raises:
            ConfigError: no such member.
        """
        if reference == self.reference:
            return self
        k = len(self.members)
        new = self._row(reference)
        matrix = np.eye(k + 1)
        matrix[0, new] = 1.0  # w_new = w_ref + Δ_new
        matrix[1:, new] -= 1.0  # Δ'_i = Δ_i − Δ_new; the row of the new reference becomes zero
        members = list(self.members)
        if self.reference not in members:
            members[new - 1] = self.reference
            matrix[new] = 0.0
            matrix[new, new] = -1.0
        rebased = self._each(lambda t: t.combined(matrix, members), members=tuple(members))
        return msgspec.structs.replace(rebased, reference=reference, elements={})

    def centre(self, members: Sequence[str] | None = None, name: str = "centroid") -> "Gram":
        """Return the Gram about the mean of the members, which becomes the reference.

        After centring, K independent members have cosine −1/(K − 1), not 0.

        Args:
            members: whose mean, and who remains; all members by default, the reference not among them.
            name: of the new reference.
        """
        chosen = self if members is None else self.select(members)
        k = len(chosen.members)
        matrix = np.zeros((k + 1, k + 1))
        matrix[0, 0] = 1.0
        matrix[0, 1:] = 1 / k
        matrix[1:, 1:] = np.eye(k) - 1 / k
        centred = chosen._each(lambda t: t.combined(matrix, chosen.members), members=chosen.members)
        return msgspec.structs.replace(centred, reference=name, elements={})

    def total(self, by: str = "all", *, equal_weight: bool = False) -> dict[str, TensorGram]:
        """Add tensors up in groups: everything, by layer, by kind, or each by itself.

        Args:
            by: "all" gives one group "all"; "layer" gives "layer 0" … and "outside"; "kind" those of
                `anatomy.KINDS` that occur; "tensor" every tensor.
            equal_weight: divide each tensor by the mean squared norm of its task vectors first, so that large
                tensors (embeddings) do not dominate; tensors that no member changed are left out.

        Raises:
            ConfigError: an unknown grouping.
        """
        if by not in GROUPINGS:
            raise ConfigError(f"cannot group tensors by {by!r}", "choose all, layer, kind or tensor")
        groups: dict[str, list[TensorGram]] = {}
        for name, tensor in self.tensors.items():
            scaled = _normalised(tensor) if equal_weight else tensor
            if scaled is not None:
                groups.setdefault(_group(name, by), []).append(scaled)
        ordered = sorted(groups, key=lambda g: (int(g[6:]) if g[6:].isdigit() else 1 << 30, g))
        return {
            group: groups[group][0] if by == "tensor" else _sum(group, groups[group]) for group in ordered
        }

    def _row(self, member: str) -> int:
        if member not in self.members:
            raise ConfigError(f"{member!r} is not in the Gram", f"members: {', '.join(self.members)}")
        return self.members.index(member) + 1

    def _each(self, change: Callable[[TensorGram], TensorGram], members: tuple[str, ...]) -> "Gram":
        tensors = {name: change(tensor) for name, tensor in self.tensors.items()}
        return msgspec.structs.replace(self, members=members, tensors=tensors)


def _rows(tensor: TensorGram, rows: Sequence[int], members: Sequence[str]) -> TensorGram:
    index = np.array(rows, np.int64)
    products = tensor.products[..., index[:, None], index[None, :]]
    return msgspec.structs.replace(
        tensor, members=tuple(members), products=products, sums=tensor.sums[..., index]
    )


def _normalised(tensor: TensorGram) -> TensorGram | None:
    mean_square = float(np.diagonal(tensor.deltas).mean()) if tensor.members else 0.0
    if mean_square <= 0:
        return None
    root = np.sqrt(mean_square)
    return msgspec.structs.replace(tensor, products=tensor.products / mean_square, sums=tensor.sums / root)


def _group(name: str, by: str) -> str:
    if by == "all":
        return "all"
    if by == "kind":
        return kind_of(name)
    if by == "layer":
        layer = layer_of(name)
        return "outside" if layer is None else f"layer {layer}"
    return name


def _sum(name: str, tensors: Sequence[TensorGram]) -> TensorGram:
    size = sum(tensor.size for tensor in tensors)
    products = np.sum([tensor.products for tensor in tensors], axis=0)
    sums = np.sum([tensor.sums for tensor in tensors], axis=0)
    return TensorGram(
        name=name, shape=(size,), size=size, members=tensors[0].members, products=products, sums=sums
    )  # fmt: skip


def grams_of(tensors: Mapping[str, TensorGram], reference: str) -> Gram:
    """Make a Gram of tensors measured elsewhere, all over the same members."""
    members = next(iter(tensors.values())).members
    return Gram(reference=reference, members=members, tensors=dict(sorted(tensors.items())))
