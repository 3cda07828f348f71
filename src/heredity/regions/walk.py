"""Where to look: along the line between two models and past its ends, over the plane of three, in the hull of many.

Every function returns places; `Ground.measure` says what they are worth.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from heredity.errors import ConfigError
from heredity.regions.place import Direction, Place, at, step
from heredity.seeds import generator


class Line(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Places (1 − α)·a + α·b.

    Attributes:
        alphas: ascending; 0 is the first model, 1 the second.
        places: one for each α.
    """

    alphas: tuple[float, ...]
    places: tuple[Place, ...]


class Plane(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """The plane through three models, in units of the models' own distances.

    Attributes:
        x: of the grid, along the line from the first model to the second.
        y: of the grid, at a right angle to it, towards the third.
        places: row by row, y first.
        members: name, x, y and distance from the plane of every model of the family.
    """

    x: Float[ndarray, " columns"]
    y: Float[ndarray, " rows"]
    places: tuple[Place, ...]
    members: tuple[tuple[str, float, float, float], ...]


def line(a: str, b: str, *, steps: int = 11, extrapolate: float = 1.0, edge_steps: int = 6) -> Line:
    """Go from one model to another, and on past both.

    Args:
        a: a member.
        b: another.
        steps: places from end to end, both of them included.
        extrapolate: largest α; the smallest is 1 − it. Above 1, α goes on in log steps on either side.
        edge_steps: places past each end.

    Raises:
        ConfigError: fewer than two steps, one model twice, or α below 1.

    Source: arXiv 2302.04863: 11 steps, and edges with α from 1 to 32 and from 0 to −31.
    """
    if a == b:
        raise ConfigError(f"{a}: one model is both ends", "a path needs two models")
    if steps < 2 or not 1 <= extrapolate < np.inf or edge_steps < 1:
        raise ConfigError(f"{steps} steps to α = {extrapolate}", "take 2 steps or more, and α of 1 or more")
    inside = np.linspace(0, 1, steps)
    beyond = np.geomspace(1, extrapolate, edge_steps + 1)[1:] if extrapolate > 1 else np.empty(0)
    alphas = np.unique(np.concatenate([1 - beyond, inside, beyond])).tolist()
    places = tuple(at(f"{a} → {b}, α = {alpha:.6g}", (a, b), _ends(alpha)) for alpha in alphas)
    return Line(alphas=tuple(alphas), places=places)


def barrier(alphas: Sequence[float], losses: Sequence[float]) -> float:
    """Return max over α in [0, 1] of loss(α) − the line between the ends' losses, nats; 0 where nothing is above it.

    Raises:
        ConfigError: an end is missing.
    """
    a, values = np.asarray(alphas, np.float64), np.asarray(losses, np.float64)
    ends = [np.flatnonzero(a == end) for end in (0.0, 1.0)]
    if not all(len(found) == 1 for found in ends):
        raise ConfigError("the path has no loss at α = 0 or α = 1", "measure both ends")
    first, last = (values[found[0]] for found in ends)
    inside = (a >= 0) & (a <= 1)
    with np.errstate(invalid="ignore"):
        above = values[inside] - ((1 - a[inside]) * first + a[inside] * last)
    return float(np.inf) if not np.isfinite(above).all() else float(above.max())


def plane(
    products: Float[ndarray, "n n"], names: Sequence[str], a: str, b: str, c: str, *, steps: int = 9,
    margin: float = 0.5,
) -> Plane:  # fmt: skip
    """Lay a grid over the plane of three models.

    Args:
        products: inner products of the models' task vectors, from any common origin.
        names: of the models.
        a: origin of the plane.
        b: on its x axis.
        c: above it.
        steps: grid points along the shorter side.
        margin: how far the grid goes past the three models, in units of its width and height.

    Raises:
        ConfigError: the three are not different models, or lie on one line.
    """
    if len({a, b, c}) < 3:
        raise ConfigError("a plane needs three different models", f"given: {a}, {b}, {c}")
    gram = products
    origin, u, v = (_unit(names, name) for name in (a, b, c))
    u, v = u - origin, v - origin
    width = float(np.sqrt(u @ gram @ u))
    if width <= 0:
        raise ConfigError(f"{a} and {b} have the same weights", "choose different models")
    u = u / width
    v = v - (v @ gram @ u) * u
    height = float(np.sqrt(max(v @ gram @ v, 0.0)))
    if height <= 1e-6 * width:
        raise ConfigError(f"{a}, {b} and {c} lie on one line", "a plane needs three models that do not")
    v = v / height
    members = []
    for name in names:
        away = _unit(names, name) - origin
        x, y = float(away @ gram @ u), float(away @ gram @ v)
        members.append((name, x, y, float(np.sqrt(max(away @ gram @ away - x * x - y * y, 0.0)))))
    corners = np.array([[m[1], m[2]] for m in members if m[0] in (a, b, c)])
    low, high = corners.min(axis=0), corners.max(axis=0)
    low, high = low - margin * (high - low), high + margin * (high - low)
    columns = max(2, round(steps * max(1.0, (high - low)[0] / (high - low)[1])))
    rows = max(2, round(steps * max(1.0, (high - low)[1] / (high - low)[0])))
    xs, ys = np.linspace(low[0], high[0], columns), np.linspace(low[1], high[1], rows)
    places = tuple(
        at(f"x = {x:.6g}, y = {y:.6g}", names, _clean(origin + x * u + y * v)) for y in ys for x in xs
    )
    return Plane(x=xs, y=ys, places=places, members=tuple(members))


def hull_samples(members: Sequence[str], count: int, *, seed: int, name: str) -> list[Place]:
    """Draw places inside the convex hull of members, Dirichlet(1): every mixture is as likely as every other."""
    draws = generator(seed, "hull", name).dirichlet(np.ones(len(members)), size=count)
    return [at(f"{name} {number}", members, row) for number, row in enumerate(draws)]


def outside(start: Place, count: int, length: float, *, seed: int, name: str) -> list[Place]:
    """Step in random directions from a place, each Xavier-shaped per tensor and of one length."""
    return [
        step(f"{name} {number}", start, Direction(seed=seed, name=f"{name} {number}", length=length))
        for number in range(count)
    ]


def centroid(members: Sequence[str], name: str = "centroid") -> Place:
    """Return the mean of members."""
    return at(name, members, np.full(len(members), 1 / len(members)))


def towards(start: Place, goal: str, share: float, name: str) -> Place:
    """Return the place (1 − share)·start + share·goal; 1 is the goal, more lies beyond it."""
    if isinstance(start.point.coefficients, dict):
        raise ConfigError(
            f"{start.name}: has shares for each tensor", "start from a place with one share a member"
        )
    shares = dict(zip(start.point.members, ((1 - share) * start.point.coefficients).tolist(), strict=True))
    shares[goal] = shares.get(goal, 0.0) + share
    return at(name, list(shares), list(shares.values()))


def spread(products: Float[ndarray, "n n"]) -> float:
    """Return the models' mean distance from their centroid, from the inner products of their task vectors."""
    squares = np.diagonal(products) - 2 * products.mean(axis=1) + products.mean()
    return float(np.sqrt(np.maximum(squares, 0)).mean())


def _ends(alpha: float) -> list[float]:
    return [1 - alpha, alpha]


def _unit(names: Sequence[str], name: str) -> Float[ndarray, " names"]:
    if name not in names:
        raise ConfigError(f"{name!r} is not a member", f"members: {', '.join(names)}")
    row = np.zeros(len(names))
    row[list(names).index(name)] = 1.0
    return row


def _clean(row: Float[ndarray, " names"]) -> Float[ndarray, " names"]:
    """Set what is a rounding error to 0, so that models which are not in the plane are not read."""
    return np.where(np.abs(row) < 1e-12, 0.0, row)
