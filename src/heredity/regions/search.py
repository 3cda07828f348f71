"""Search for the merge of lowest loss: t by grid or golden section, weights by greedy soups.

Every search is a pure function over `evaluate(point) -> loss`; points already evaluated are not evaluated
again, so a search that is given the trace of an interrupted one goes on with it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from heredity.errors import ConfigError

_GOLDEN = (np.sqrt(5) - 1) / 2

Weights = tuple[float, ...]
Evaluate = Callable[[Weights], float]
"""Loss of a point: of (t,) on a path, or of the weights of the members."""


class Step(NamedTuple):
    """One evaluated point.

    Attributes:
        weights: the point, (t,) or a weight for each member.
        loss: what `evaluate` gave.
        best: whether it was the lowest loss so far.
        why: which move of the search tried it.
    """

    weights: Weights
    loss: float
    best: bool
    why: str


class Trace:
    """The steps of a search in order, and each point's loss.

    Attributes:
        steps: in the order of their first use.
    """

    def __init__(self, evaluate: Evaluate, known: Mapping[Weights, float] | None = None) -> None:
        self.steps: list[Step] = []
        self._evaluate = evaluate
        self._known = {_rounded(point): loss for point, loss in (known or {}).items()}

    @property
    def best(self) -> Step:
        """The step of lowest loss; the first one of equals."""
        return min(self.steps, key=lambda step: step.loss)

    def __call__(self, weights: Sequence[float], why: str) -> float:
        """Return a point's loss, evaluating it if that has not been done."""
        point = _rounded(weights)
        for step in self.steps:
            if step.weights == point:
                return step.loss
        loss = self._known[point] if point in self._known else float(self._evaluate(point))
        if np.isnan(loss):
            raise ConfigError(f"the loss at {point} is not a number", "look at the models and the data")
        lowest = not self.steps or loss < self.best.loss
        self.steps.append(Step(point, loss, lowest, why))
        return loss


def grid(trace: Trace, values: Sequence[float]) -> Step:
    """Try every t of `values`.

    >>> grid(Trace(lambda w: (w[0] - 0.3) ** 2), [0, 0.25, 0.5]).weights
    (0.25,)
    """
    for t in values:
        trace((t,), "grid")
    return trace.best


def golden_section(
    trace: Trace, low: float = 0.0, high: float = 1.0, *, tolerance: float = 0.01, patience: int | None = None
) -> Step:
    """Narrow an interval around the lowest loss of a path with one minimum.

    Args:
        trace: where points are evaluated.
        low: of t.
        high: of t.
        tolerance: width of the interval to stop at.
        patience: stop after so many points in a row that did not lower the loss.

    Source: Kiefer 1953.
    """
    for end in (low, high):
        trace((end,), "end")
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    while high - low > tolerance and not _stale(trace, patience):
        if trace((left,), "golden section") <= trace((right,), "golden section"):
            high, right = right, left
            left = high - _GOLDEN * (high - low)
        else:
            low, left = left, right
            right = low + _GOLDEN * (high - low)
    return trace.best


def greedy_soup(trace: Trace, count: int, *, patience: int | None = None) -> Step:
    """Add members in order of their own loss, each kept if the mean with it is better.

    Args:
        trace: where points are evaluated.
        count: how many members there are.
        patience: stop after so many members in a row that did not lower the loss.

    Source: Wortsman et al. 2022, arXiv 2203.05482, recipe 1.
    """
    _selected(trace, {str(i): _mean([i], count) for i in range(count)}, "", patience)
    return trace.best


def kinship_greedy(
    trace: Trace, kinship: Float64[ndarray, "k k"], *, top: int = 3, patience: int | None = None
) -> Step:
    """Top-k greedy merging with one step of exploration: the member least akin to the best merge so far.

    The best `top` members are merged in turn; then the member of least kinship to what was chosen is tried.

    Args:
        trace: where points are evaluated.
        kinship: cosine of the members' task vectors.
        top: how many of the best members are candidates.
        patience: stop after so many points in a row that did not lower the loss.

    Source: arXiv 2410.12613, algorithm 1.
    """
    count = len(kinship)
    alone = [trace(_mean([i], count), "alone") for i in range(count)]
    order = sorted(range(count), key=lambda i: (alone[i], i))
    chosen, loss = [order[0]], alone[order[0]]
    for member in order[1:top]:
        tried = trace(_mean([*chosen, member], count), f"top: with {member}")
        if tried <= loss:
            chosen, loss = [*chosen, member], tried
        if _stale(trace, patience):
            return trace.best
    rest = [i for i in range(count) if i not in chosen]
    if rest:
        strangest = min(rest, key=lambda i: (float(np.mean([kinship[i, j] for j in chosen])), i))
        trace(_mean([*chosen, strangest], count), f"least kin: with {strangest}")
    return trace.best


def clustered(trace: Trace, clusters: Sequence[int], *, patience: int | None = None) -> Step:
    """Merge selectively inside each cluster, then the clusters' merges in the same way.

    Inside a cluster the members are added in order of their own loss, each kept if the mean with it is better;
    what a cluster kept is one model of the second round, whatever its size.

    Args:
        trace: where points are evaluated.
        clusters: the cluster of each member.
        patience: stop a round after so many points in a row that did not lower its loss.

    Source: arXiv 2410.05357 (clusters of similar models, then selective merging).
    """
    count = len(clusters)
    merges = []
    for cluster in sorted(set(clusters)):
        members = {str(i): _mean([i], count) for i, c in enumerate(clusters) if c == cluster}
        merges.append(_selected(trace, members, f"cluster {cluster}: ", patience))
    if len(merges) > 1:
        _selected(trace, {f"cluster {n}": merge for n, merge in enumerate(merges)}, "", patience)
    return trace.best


def _selected(trace: Trace, points: Mapping[str, Weights], where: str, patience: int | None) -> Weights:
    """Return the mean of the points that lower the loss when they are added in order of their own."""
    losses = {name: trace(point, f"{where}{name} alone") for name, point in points.items()}
    first, *others = sorted(points, key=losses.__getitem__)
    chosen, best, since = [points[first]], losses[first], 0
    for name in others:
        tried = [*chosen, points[name]]
        loss = trace(np.mean(tried, axis=0).tolist(), f"{where}with {name}")
        chosen, best, since = (tried, loss, 0) if loss <= best else (chosen, best, since + 1)
        if patience is not None and since >= patience:
            break
    return _rounded(np.mean(chosen, axis=0).tolist())


def _mean(members: Sequence[int], count: int) -> Weights:
    return tuple(1 / len(members) if i in members else 0.0 for i in range(count))


def _stale(trace: Trace, patience: int | None) -> bool:
    if patience is None:
        return False
    since = next((n for n, step in enumerate(reversed(trace.steps)) if step.best), 0)
    return since >= patience


def _rounded(weights: Sequence[float]) -> Weights:
    return tuple(round(float(w), 12) for w in weights)
