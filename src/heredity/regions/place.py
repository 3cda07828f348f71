"""Places on the ground: a point of a family, perhaps a step in a random direction away from it, and a name.

middle = at("middle", ("a", "b"), [0.5, 0.5])
outside = step("Ex 0", middle, Direction(seed=0, name="Ex 0", length=3.2))
"""

import re
from collections.abc import Callable, Sequence
from hashlib import sha256

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from heredity.anatomy import is_head, kind_of, layer_of
from heredity.errors import ConfigError
from heredity.point import Point


class Direction(msgspec.Struct, frozen=True, kw_only=True):
    """A random direction over the tensors that the family's members moved, Xavier-shaped in each.

    Attributes:
        seed: of the draws.
        name: keys the draws, with the tensor's name.
        length: norm of the whole step.
    """

    seed: int
    name: str
    length: float


class Place(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A model somewhere in weight space.

    Attributes:
        name: unique among the places that are measured together.
        point: over members; those with no share are left out.
        direction: a step away from it, or None.
    """

    name: str
    point: Point
    direction: Direction | None = None

    def digest(self, identities: dict[str, str]) -> str:
        """Return sha256 of what the place is: the members' own digests, their shares, the step.

        Args:
            identities: digest of every member's weights.
        """
        whole = sha256()
        for member in self.point.members:
            whole.update(identities[member].encode() + b"\n")
        coefficients = self.point.coefficients
        if isinstance(coefficients, dict):
            for tensor in sorted(coefficients):
                whole.update(tensor.encode() + b"\n" + coefficients[tensor].tobytes())
        else:
            whole.update(coefficients.tobytes())
        if self.direction is not None:
            whole.update(repr(msgspec.structs.astuple(self.direction)).encode())
        return whole.hexdigest()


def at(name: str, members: Sequence[str], coefficients: ArrayLike) -> Place:
    """Return the place Σ c_i w_i; members with a share of exactly 0 are left out.

    Raises:
        ConfigError: all shares are 0.
    """
    row = np.asarray(coefficients, np.float64)
    keep = np.flatnonzero(row).tolist()
    if not keep:
        raise ConfigError(f"{name}: all shares are 0", "a place has a share of at least one member")
    return Place(name=name, point=Point([members[i] for i in keep], row[keep]))


def step(name: str, start: Place, direction: Direction) -> Place:
    """Return the place a step away from another."""
    return Place(name=name, point=start.point, direction=direction)


def moving(place: Place, rest: Place, tensors: Sequence[str], chosen: Callable[[str], bool]) -> Place:
    """Return a place whose chosen tensors are those of `place` and all others those of `rest`.

    Args:
        place: where the chosen tensors go.
        rest: where the others stay.
        tensors: names of all tensors.
        chosen: says which move.

    Raises:
        ConfigError: nothing is chosen.
    """
    members = tuple(dict.fromkeys([*place.point.members, *rest.point.members]))
    rows = {}
    for tensor in tensors:
        source = place if chosen(tensor) else rest
        shares = dict(zip(source.point.members, source.point.for_tensor(tensor).tolist(), strict=True))
        rows[tensor] = [shares.get(member, 0.0) for member in members]
    if not any(map(chosen, tensors)):
        raise ConfigError(
            f"{place.name}: no tensor is chosen to move", "see the tensors with `heredity inspect`"
        )
    return Place(name=place.name, point=Point(members, rows), direction=place.direction)


def selection(text: str) -> Callable[[str], bool]:
    """Read which tensors move: attention, mlp, norm, embedding, head, layers>=N, layers<N, or layer=N.

    Raises:
        ConfigError: none of these.

    >>> selection("layers>=2")("encoder.layer.3.output.dense.weight")
    True
    """
    if text in ("attention", "mlp", "norm", "embedding"):
        return lambda name: kind_of(name).startswith(text)
    if text == "head":
        return is_head
    found = re.fullmatch(r"layers?\s*(>=|<|=)\s*(\d+)", text)
    if not found:
        raise ConfigError(
            f"{text!r} names no tensors",
            "choose attention, mlp, norm, embedding, head, layers>=N, layers<N, layer=N",
        )
    sign, limit = found[1], int(found[2])

    def chosen(name: str) -> bool:
        layer = layer_of(name)
        if layer is None:
            return False
        return layer >= limit if sign == ">=" else layer < limit if sign == "<" else layer == limit

    return chosen
