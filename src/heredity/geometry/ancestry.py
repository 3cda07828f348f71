"""Who descends from whom: a DAG of fine-tunes, merges and copies, read from inner products alone.

A fine-tune of p goes on from where p stands: its further step is at right angles to p's own task vector. A
sibling starts from the base: measured from p, it first goes back. The cosine between p's task vector and the
    step from p
to the model, tensor by tensor, is the *turn*: 0 for a child, −√((1 − r)/2) for a sibling of equal length
whose task vector has cosine r with p's. Directions need a known base; without one the kin are joined by an
unrooted tree.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from heredity.geometry.merges import allowance, fit, nonnegative
from heredity.geometry.similarity import distance

TURN = 0.2
"""A model is a child of another if their turn is at most this; siblings reach it with a cosine above 0.92."""
ONWARD = 0.6
"""On the same data a child turns onwards, by up to this; then nobody else may explain it."""
CARRIED = 0.5
"""A child carries at least this share of its parent's task vector, beside all others'."""
NEARER = 0.95
"""A parent is at most this far, relative to the base: an early checkpoint of the same run is out of reach."""
COPY = 1e-6
"""Models nearer than this, relative to their norm, are copies."""

Kind = Literal["base", "finetune", "merge", "near merge", "copy", "kin"]


class Descent(msgspec.Struct, frozen=True, eq=False):
    """Where one model comes from.

    Attributes:
        model: its index.
        kind: "finetune" (one parent), "merge" (in the span of its parents), "near merge" (mostly so: TIES,
            DARE, or a merge that was trained on), "copy", "base", or "kin" (an edge without direction).
        parents: indices; 0 is the reference.
        coefficients: of the parents, for merges, as the stored weights read.
        before: the coefficients before the merge was rounded to its format, as a simulation infers them.
        precision: what the stored format allows each coefficient to be off.
        residual: what the parents leave: ‖δ − Σ a_i δ_i‖ / ‖δ‖ for merges (the better of one set of
            coefficients and one per tensor), ‖w − w_parent‖ / ‖w − w_ref‖ for fine-tunes.
        uniform: merges: one set of coefficients serves all tensors.
        score: turn for fine-tunes, residual for merges: smaller is surer.
        null: what a stranger scores: the best turn of a model that is no ancestor; for merges the residual of
            the best-fitting parent without the merge. NaN without one.
    """

    model: int
    kind: Kind
    parents: tuple[int, ...] = ()
    coefficients: tuple[float, ...] = ()
    before: tuple[float, ...] = ()
    precision: tuple[float, ...] = ()
    residual: float = float("nan")
    uniform: bool = True
    score: float = float("nan")
    null: float = float("nan")


def ancestry(
    products: Float[ndarray, "t n n"], dtypes: Sequence[str], *, base_known: bool = True
) -> tuple[Descent, ...]:
    """Name every model's parents.

    Args:
        products: per tensor, inner products of [w_ref, Δ_1 … Δ_K].
        dtypes: stored format of every model, reference first.
        base_known: the reference is an ancestor of all; otherwise it is a model like the others.

    Returns:
        One entry for each model, reference first.
    """
    total = products.sum(axis=0)
    deltas = total.copy()
    deltas[0] = deltas[:, 0] = 0.0  # from here on index 0 is the reference's own, empty task vector
    apart = distance(deltas)
    norm = np.sqrt(np.maximum(total[0, 0] + 2 * total[0] + np.diagonal(deltas), 0.0))
    copies = _copies(apart, norm)
    distinct = [index for index in range(1, len(total)) if index not in copies]
    merges = _merges(products, distinct, dtypes, base_known)
    found = {0: Descent(0, "base" if base_known else "kin")}
    found |= {
        index: Descent(index, "copy", (twin,), residual=0.0, score=0.0) for index, twin in copies.items()
    }
    found |= {entry.model: entry for entry in merges}
    rest = [index for index in distinct if index not in found]
    if base_known:
        found |= {
            entry.model: entry for entry in _finetunes(rest, distinct, merges, total, *_turns(products))
        }
    else:
        found |= {entry.model: entry for entry in _unrooted([0, *rest], apart)}
    return tuple(found[index] for index in range(len(total)))


def _copies(apart: Float[ndarray, "n n"], norm: Float[ndarray, "n"]) -> dict[int, int]:
    copies: dict[int, int] = {}
    for index in range(1, len(apart)):
        twins = [other for other in range(index) if other not in copies]
        near = [other for other in twins if apart[index, other] <= COPY * max(norm[index], norm[other])]
        if near:
            copies[index] = near[0]
    return copies


def _merges(
    products: Float[ndarray, "t n n"], models: list[int], dtypes: Sequence[str], base_known: bool
) -> list[Descent]:
    """Accept merges one by one, surest first; a model is never made of its own descendants."""
    accepted: list[Descent] = []
    while True:
        below = _descendants(accepted)
        proposals = []
        for index in [index for index in models if index not in [entry.model for entry in accepted]]:
            others = [other for other in models if other != index and other not in below.get(index, ())]
            entry = _judged(products, index, others, dtypes, base_known)
            if entry is not None:
                proposals.append(entry)
        if not proposals:
            break
        accepted.append(min(proposals, key=lambda entry: (entry.kind != "merge", entry.score, entry.model)))
    # A merge of merges is also a merge of their parents: name those that are no merges, where they suffice.
    founders = [index for index in models if index not in [entry.model for entry in accepted]]
    again = [_judged(products, entry.model, founders, dtypes, base_known) for entry in accepted]
    return [
        new if new is not None and new.kind == "merge" else old
        for old, new in zip(accepted, again, strict=True)
    ]


def _judged(
    products: Float[ndarray, "t n n"], model: int, others: list[int], dtypes: Sequence[str], base_known: bool
) -> Descent | None:
    """Call a fit a merge if rounding explains what is left, and the parents themselves fit far worse."""

    def refit(index: int, candidates: list[int]) -> float:
        found = fit(products, index, candidates, dtypes[index], base_known=base_known)
        return 1.0 if found is None else found.tensor_residual

    found = fit(products, model, others, dtypes[model], base_known=base_known)
    if found is None or found.tensor_residual > 0.75:
        return None
    score = found.tensor_residual
    null = max(refit(parent, [other for other in others if other != parent]) for parent in found.parents)
    alone = len(found.parents) == 1
    if score > 0.8 * null or (alone and (score > 0.2 or found.coefficients[0] > 0.9)):
        return None
    allowed = allowance(products, model, found, dtypes)
    exact = score <= allowed.residual
    if not exact:
        with_model = min(refit(p, [model, *(other for other in others if other != p)]) for p in found.parents)
        if alone or score > 0.7 * with_model:
            return None
    parents = found.parents
    coefficients, precision = tuple(map(float, found.coefficients)), tuple(map(float, allowed.precision))
    before = tuple(map(float, allowed.coefficients))
    rest = 1 - sum(coefficients)
    if rest > max(0.05, 2 * sum(precision)) and (alone or not base_known):
        parents, coefficients, precision = (0, *parents), (rest, *coefficients), (sum(precision), *precision)
        before = (1 - sum(before), *before)
    uniform = found.residual <= max(allowed.residual, 1.2 * score)
    return Descent(
        model, "merge" if exact else "near merge", parents, coefficients, before, precision,
        residual=score, uniform=uniform, score=score, null=null,
    )  # fmt: skip


def _descendants(entries: Sequence[Descent]) -> dict[int, tuple[int, ...]]:
    """Map every model to those made of it, directly or not."""
    children: dict[int, list[int]] = {}
    for entry in entries:
        for parent in entry.parents:
            children.setdefault(parent, []).append(entry.model)
    below: dict[int, tuple[int, ...]] = {}
    for model in children:
        reached, waiting = [], list(children[model])
        while waiting:
            child = waiting.pop()
            if child not in reached:
                reached.append(child)
                waiting += children.get(child, [])
        below[model] = tuple(reached)
    return below


def _turns(products: Float[ndarray, "t n n"]) -> tuple[Float[ndarray, "n n"], Float[ndarray, "n n"]]:
    """Return, at [p, c], the turn at p from the reference to c: root mean square and mean over tensors.

    Tensors are weighted by how far p moved them. A positive mean is a step onwards.
    """
    squares = np.diagonal(products, axis1=1, axis2=2)
    inner = products - squares[:, :, None]  # ⟨Δ_p, Δ_c − Δ_p⟩
    step = np.maximum(squares[:, :, None] + squares[:, None, :] - 2 * products, 0.0)
    scale = np.sqrt(squares[:, :, None] * step)
    cosine = np.divide(inner, scale, out=np.zeros_like(inner), where=scale > 0)
    weight = np.broadcast_to(squares[:, :, None], products.shape)
    total = weight.sum(axis=0)
    square = np.divide((weight * cosine**2).sum(axis=0), total, out=np.ones_like(total), where=total > 0)
    mean = np.divide((weight * cosine).sum(axis=0), total, out=np.zeros_like(total), where=total > 0)
    return np.sqrt(square), mean


def _finetunes(
    models: list[int],
    distinct: list[int],
    merges: list[Descent],
    total: Float[ndarray, "n n"],
    turns: Float[ndarray, "n n"],
    onward: Float[ndarray, "n n"],
) -> list[Descent]:
    """Give each model the nearest of those it goes on from, or else the base."""
    squares = np.diagonal(total)
    apart = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * total, 0.0))
    ancestors = _ancestors(models, distinct, merges, total, turns, onward)
    chosen = {c: min(found, key=lambda p: (apart[p, c], p)) for c, found in ancestors.items() if found}
    below = _descendants([*merges, *(Descent(c, "finetune", (p,)) for c, p in chosen.items())])
    entries = []
    for child in models:
        kin = [child, *below.get(child, ()), *(p for p in distinct if child in below.get(p, ()))]
        null = min((float(turns[p, child]) for p in distinct if p not in kin), default=float("nan"))
        if child not in chosen:
            entries.append(Descent(child, "finetune", (0,), residual=1.0, null=null))
            continue
        parent = chosen[child]
        residual, score = float(apart[parent, child] / np.sqrt(squares[child])), float(turns[parent, child])
        entries.append(Descent(child, "finetune", (parent,), residual=residual, score=score, null=null))
    return entries


def _ancestors(
    models: list[int],
    distinct: list[int],
    merges: list[Descent],
    total: Float[ndarray, "n n"],
    turns: Float[ndarray, "n n"],
    onward: Float[ndarray, "n n"],
) -> dict[int, list[int]]:
    """List for each model those it goes on from: surest pairs first, no circles, until nothing is added."""
    squares = np.diagonal(total)
    nearer = squares[:, None] + squares[None, :] - 2 * total <= NEARER**2 * squares[None, :]
    turned = (turns <= TURN) | ((onward > 0) & (onward <= ONWARD))
    pairs = [(p, c) for c in models for p in distinct if p != c and turned[p, c] and nearer[p, c]]
    pairs.sort(key=lambda pair: (turns[pair], pair))
    made_of = {entry.model: _shares(entry) for entry in merges}
    edges, ancestors = list(merges), {model: list[int]() for model in models}
    grown = True
    while grown:
        grown = False
        for parent, child in pairs:
            below = _descendants(edges).get(child, ())
            if parent in below or parent in ancestors[child]:
                continue
            later = [child, *below, *(x for x in distinct if turns[child, x] <= turns[parent, child])]
            # A merge adds nothing to the span of its parts: its share would be anyone's.
            others = [x for x in distinct if x not in later and x not in made_of and total[x, x] > 0]
            shares = made_of.get(parent, {parent: 1.0})
            if _carries(child, shares, later, others, total, alone=bool(turns[parent, child] > TURN)):
                ancestors[child].append(parent)
                edges.append(Descent(child, "finetune", (parent,)))
                grown = True
    return ancestors


def _shares(merge: Descent) -> dict[int, float]:
    """Map the parents of a merge to their coefficients, without the base."""
    return {p: weight for p, weight in zip(merge.parents, merge.coefficients, strict=True) if p != 0}


def _carries(
    child: int,
    shares: dict[int, float],
    later: Sequence[int],
    others: Sequence[int],
    total: Float[ndarray, "n n"],
    *,
    alone: bool,
) -> bool:
    """Say whether a model carries a parent's task vector, once all others have had their share of it.

    A child carries its parent's noise; a sibling shares only what their data share. Of a merge it carries
    every part, in proportion: a sibling of one part would lack the rest. `alone`: nobody else may have a
    share to speak of, as a sibling that was trained for longer looks much the same.
    """
    if any(part in later for part in shares):
        return False
    rows = [*shares, *(x for x in others if x not in shares)]
    weights = nonnegative(total[np.ix_(rows, rows)], total[rows, child])
    if alone:
        return bool(abs(weights[0] - 1) <= 0.15 and weights[1:].max(initial=0.0) <= 0.25)
    return all(weight >= CARRIED * share for weight, share in zip(weights, shares.values(), strict=False))


def _unrooted(models: list[int], apart: Float[ndarray, "n n"]) -> list[Descent]:
    """Join models by the shortest tree; each edge is listed once, at the model that joined later."""
    joined, waiting = models[:1], models[1:]
    edges = [Descent(models[0], "kin")]
    while waiting:
        near, new = min(((a, b) for a in joined for b in waiting), key=lambda pair: (apart[pair], pair))
        edges.append(Descent(new, "kin", (near,), residual=float(apart[near, new])))
        joined.append(new)
        waiting.remove(new)
    return edges
