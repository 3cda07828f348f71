"""Trees as Newick text, which every tree viewer reads: a rooted hierarchy, or an unrooted tree."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from heredity.geometry.clusters import linkage
from heredity.geometry.matrix import checked

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-+/@")


def hierarchy(names: Sequence[str], distances: Float[ndarray, "n n"], method: str = "average") -> str:
    """Write the dendrogram of a hierarchy; a branch's length is the difference of the merge heights, halved.

    So the path between two leaves is as long as the height at which they meet.
    """
    checked(distances, "distances", names)
    nodes = [(quoted(name), 0.0) for name in names]
    for left, right, height, _ in linkage(distances, method) if len(names) > 1 else ():
        ends = [(text, (height - below) / 2) for text, below in (nodes[int(left)], nodes[int(right)])]
        nodes.append((f"({','.join(f'{text}:{_length(branch)}' for text, branch in ends)})", float(height)))
    return f"{nodes[-1][0]};"


def neighbour_joining(names: Sequence[str], distances: Float[ndarray, "n n"]) -> str:
    """Write the unrooted tree of neighbour joining: no direction is claimed, three branches meet at the top.

    Exact when the distances are those of a tree. A negative length is written as 0.

    Source: Saitou & Nei 1987, in the form of Studier & Keppler 1988. Ties go to the pair that comes first.
    """
    rest = checked(distances, "distances", names).copy()
    nodes = [quoted(name) for name in names]
    if len(nodes) < 3:
        half = _length(rest[0, -1] / 2)
        return f"({','.join(f'{node}:{half}' for node in nodes)});" if len(nodes) == 2 else f"{nodes[0]};"
    while len(nodes) > 3:
        total = rest.sum(axis=1)
        score = (len(nodes) - 2) * rest - total[:, None] - total[None, :]
        np.fill_diagonal(score, np.inf)
        i, j = divmod(int(score.argmin()), len(nodes))
        i, j = min(i, j), max(i, j)
        near = rest[i, j] / 2 + (total[i] - total[j]) / (2 * (len(nodes) - 2))
        joined = f"({nodes[i]}:{_length(near)},{nodes[j]}:{_length(rest[i, j] - near)})"
        to_joined = (rest[i] + rest[j] - rest[i, j]) / 2
        keep = [index for index in range(len(nodes)) if index not in (i, j)]
        grown = np.zeros((len(keep) + 1, len(keep) + 1))
        grown[:-1, :-1] = rest[np.ix_(keep, keep)]
        grown[-1, :-1] = grown[:-1, -1] = to_joined[keep]
        rest, nodes = grown, [*(nodes[index] for index in keep), joined]
    a, b, c = rest[0, 1], rest[0, 2], rest[1, 2]
    ends = zip(nodes, ((a + b - c) / 2, (a + c - b) / 2, (b + c - a) / 2), strict=True)
    return f"({','.join(f'{node}:{_length(branch)}' for node, branch in ends)});"


def quoted(name: str) -> str:
    """Write a leaf's name, in quotes where Newick needs them."""
    return (
        name
        if name and all(character in _PLAIN for character in name)
        else "'" + name.replace("'", "''") + "'"
    )


def _length(value: float) -> str:
    return f"{max(float(value), 0.0):.6g}"
