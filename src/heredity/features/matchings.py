"""Which latent of one SAE is which of another: three matchings of the same candidates.

- **best**: the partner with the largest r; several latents may share one.
- **mutual**: the best partner, if the latent is that partner's best in turn.
- **hungarian**: one to one, with the largest sum of r over all candidate pairs from the least τ on. Source: the
  assignment problem (Kuhn 1955), solved on the sparse candidates alone by Jonker & Volgenant's method
  (`scipy.sparse.csgraph`): each latent has a partner of its own worth 0, so that it can stay alone.

Only pairs that fire together often enough are candidates, among the `top` best of either side.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64
from msgspec import Struct
from numpy import ndarray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from heredity.features.correlate import Candidates

Name = Literal["best", "mutual", "hungarian"]
NAMES: tuple[Name, ...] = ("best", "mutual", "hungarian")


class Matching(Struct, frozen=True, eq=False):
    """A partner for each latent of one side.

    Attributes:
        partner: −1 for none.
        r: its correlation, 0 without one.
    """

    partner: Int64[ndarray, " latents"]
    r: Float64[ndarray, " latents"]

    def reversed(self, n: int) -> "Matching":
        """Return a one-to-one matching from the side of the n partners."""
        own = np.flatnonzero(self.partner >= 0)
        partner, r = np.full(n, -1), np.zeros(n)
        partner[self.partner[own]], r[self.partner[own]] = own, self.r[own]
        return Matching(partner, r)


def match(name: Name, forward: Candidates, backward: Candidates, *, min_joint: int, least: float) -> Matching:
    """Match the latents of one side to those of the other.

    Args:
        name: which matching.
        forward, backward: candidates of each side in the other.
        min_joint: joint firings of a match.
        least: pairs with a smaller r are no candidates of the assignment.
    """
    if name == "hungarian":
        return hungarian(forward, backward, min_joint, least)
    return best(forward, min_joint) if name == "best" else mutual(forward, backward, min_joint)


def best(side: Candidates, min_joint: int) -> Matching:
    """Return each latent's best partner with enough joint firings."""
    enough = (side.joint >= min_joint) & (side.latent >= 0)
    first = np.argmax(
        enough, axis=1
    )  # candidates are sorted: the first with enough joint firings is the best
    rows, some = np.arange(len(first)), enough.any(axis=1)
    return Matching(
        np.where(some, side.latent[rows, first], -1).astype(np.int64),
        np.where(some, side.r[rows, first], 0.0),
    )


def mutual(forward: Candidates, backward: Candidates, min_joint: int) -> Matching:
    """Return the best partners that return the favour."""
    there, back = best(forward, min_joint), best(backward, min_joint)
    same = (there.partner >= 0) & (back.partner[there.partner] == np.arange(len(there.partner)))
    return Matching(np.where(same, there.partner, -1), np.where(same, there.r, 0.0))


def hungarian(forward: Candidates, backward: Candidates, min_joint: int, least: float) -> Matching:
    """Return the one-to-one matching with the largest sum of r."""
    n, width = len(forward.r), len(backward.r)
    first, second, r = _pairs(forward, backward, min_joint, least)
    partner, score = np.full(n, -1), np.zeros(n)
    if not len(r):
        return Matching(partner, score)
    own = np.unique(first)  # the others have no candidate and stay alone
    place = np.searchsorted(own, first)
    alone = np.arange(len(own))
    # Every latent takes exactly one edge, so a constant of 2 on all costs changes nothing and keeps them above 0.
    cost = csr_array(
        (
            np.concatenate([2 - r, np.full(len(own), 2.0)]),
            (np.concatenate([place, alone]), np.concatenate([second, width + alone])),
        ),
        shape=(len(own), width + len(own)),
    )
    rows, columns = min_weight_full_bipartite_matching(cost)
    taken = columns < width
    partner[own[rows[taken]]] = columns[taken]
    at = np.searchsorted(
        first * width + second, own[rows[taken]] * width + columns[taken]
    )  # pairs are sorted
    score[own[rows[taken]]] = r[at]
    return Matching(partner, score)


def _pairs(
    forward: Candidates, backward: Candidates, min_joint: int, least: float
) -> tuple[Int64[ndarray, " pairs"], Int64[ndarray, " pairs"], Float64[ndarray, " pairs"]]:
    """List the candidate pairs of both sides, each once, in order."""
    firsts, seconds, scores = [], [], []
    for side in (forward, backward):
        own, rank = np.nonzero((side.latent >= 0) & (side.joint >= min_joint) & (side.r >= least))
        pair = own, side.latent[own, rank].astype(np.int64)
        firsts.append(pair[0] if side is forward else pair[1])
        seconds.append(pair[1] if side is forward else pair[0])
        scores.append(side.r[own, rank])
    first, second, r = np.concatenate(firsts), np.concatenate(seconds), np.concatenate(scores)
    _, once = np.unique(first * len(backward.r) + second, return_index=True)
    return first[once], second[once], r[once]
