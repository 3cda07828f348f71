"""Newick text: read back by a parser of ten lines, whose path lengths must be those of the tree."""

import numpy as np
import pytest

from heredity.geometry.clusters import linkage
from heredity.geometry.newick import hierarchy, neighbour_joining, quoted


def _paths(text):
    """Return {(leaf, leaf): length of the path} of plain Newick text."""

    def parse(position):
        nodes = {}
        pairs = {}
        if text[position] == "(":
            position += 1
            while True:
                below, inner, position = parse(position)
                pairs |= inner
                pairs |= {(a, b): x + y for a, x in nodes.items() for b, y in below.items()}
                nodes |= below
                if text[position] == ")":
                    position += 1
                    break
                position += 1
        else:
            stop = min(text.index(mark, position) for mark in ":;" if mark in text[position:])
            nodes, position = {text[position:stop]: 0.0}, stop
        length = 0.0
        if text[position] == ":":
            stop = min(text.index(mark, position) for mark in ",);" if mark in text[position:])
            length, position = float(text[position + 1 : stop]), stop
        return {name: value + length for name, value in nodes.items()}, pairs, position

    return {frozenset(pair): value for pair, value in parse(0)[1].items()}


def test_hierarchy_joins_leaves_at_their_merge_heights():
    points = np.random.default_rng(0).normal(0, 1, (7, 3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    names = list("abcdefg")
    paths = _paths(hierarchy(names, distances))
    from scipy.cluster.hierarchy import cophenet

    heights = iter(cophenet(linkage(distances)))
    for i in range(7):
        for j in range(i + 1, 7):
            assert paths[frozenset((names[i], names[j]))] == pytest.approx(next(heights), abs=1e-4)


@pytest.mark.parametrize("n", [4, 6, 9])
def test_neighbour_joining_is_exact_on_the_distances_of_a_tree(n):
    rng = np.random.default_rng(n)
    # A caterpillar tree: leaf i hangs by arm[i] from a spine.
    arm, spine = rng.uniform(0.1, 1, n), np.concatenate([[0], rng.uniform(0.1, 1, n - 1).cumsum()])
    distances = arm[:, None] + arm[None, :] + np.abs(spine[:, None] - spine[None, :])
    np.fill_diagonal(distances, 0)
    names = [f"m{i}" for i in range(n)]
    paths = _paths(neighbour_joining(names, distances))
    for i in range(n):
        for j in range(i):
            assert paths[frozenset((names[i], names[j]))] == pytest.approx(distances[i, j], abs=1e-4)


def test_small_trees_and_odd_names():
    assert neighbour_joining(["a"], np.zeros((1, 1))) == "a;"
    assert neighbour_joining(["a", "b"], np.array([[0.0, 2.0], [2.0, 0.0]])) == "(a:1,b:1);"
    assert hierarchy(["a"], np.zeros((1, 1))) == "a;"
    assert quoted("org/model-7b") == "org/model-7b"
    assert quoted("it's (new)") == "'it''s (new)'"
    assert quoted("a b") == "'a b'"
    assert quoted("") == "''"
