"""The radius of every group of a dendrogram: how far its farthest member is from the one that stands for it.

Groups of few leaves are worked on many at a time, each with a copy of its rows. Larger ones that share their first leaf
are nested, and go through :mod:`pipeline.balance.nested_radii` one chain after the other.

Radii do not grow with the groups, but diameters do, and a diameter is at most two radii. So from the first leaf that is
farther than twice the limit from the first of a chain, no group that holds both is within the limit, and none is
looked at: that is what makes a component of very many images cheap.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.balance.centers import ELEMENTS, distances, on_grid
from pipeline.balance.leaves import Leaves
from pipeline.balance.nested_radii import nested_radii
from pipeline.graph.dendrogram import Dendrogram

FEW = 64
"""Leaves up to which a group is worked on alone."""

_ROUNDING = 1 + 2.0**-20


def radii(leaves: Leaves, tree: Dendrogram, *, limit: float, elements: int = ELEMENTS, few: int = FEW) -> np.ndarray:
    """(E,) float32: the radius of each node, infinite where it is beyond ``limit``.

    ``elements`` floats of embeddings are worked on at a time, as in :mod:`pipeline.balance.centers`; a few numbers are
    held per leaf. The result depends on neither ``elements`` nor ``few``.
    """
    size = tree.end - tree.start
    found = np.full(len(size), np.inf, np.float32)
    rows = max(1, elements // max(leaves.width, 1))
    for nodes in _parts(tree, np.flatnonzero(size <= few), rows):
        found[nodes] = _of_few(leaves, tree.start[nodes], tree.end[nodes])
    beyond = np.zeros(len(size) + 1, bool)
    for chain in _chains(tree, np.flatnonzero(size > few)):
        start, near = int(tree.start[chain[0]]), chain[: np.argmax(np.r_[beyond[chain], True])]
        if len(near):
            ends = tree.end[near]
            near = near[ends <= _first_far(leaves, start, int(ends[-1]), 2 * limit * _ROUNDING, rows)]
        if len(near):
            found[near] = nested_radii(leaves, start, tree.end[near], limit=limit, elements=elements)
        if len(near) < len(chain):
            beyond[tree.above[chain[-1]]] = True
    found[found > np.float32(limit)] = np.inf
    return found


def _parts(tree: Dendrogram, nodes: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Nodes by their place, so many that they have about ``rows`` rows in all and lie as near to each other."""
    nodes = nodes[np.argsort(tree.start[nodes], kind="stable")]
    start, total = tree.start[nodes], np.cumsum(tree.end[nodes] - tree.start[nodes])
    begin = 0
    while begin < len(nodes):
        before = total[begin - 1] if begin else 0
        stop = min(np.searchsorted(total, before + rows, "right"), np.searchsorted(start, start[begin] + rows))
        stop = max(int(stop), begin + 1)
        yield nodes[begin:stop]
        begin = stop


def _of_few(leaves: Leaves, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    first, size = int(start.min()), end - start
    begins = np.cumsum(size) - size
    rows = np.repeat(start - first - begins, size) + np.arange(size.sum())
    matrix = leaves.read(first, int(end.max()))
    if leaves.elected is not None:
        order = leaves.elected[first + rows]
    else:
        order = _to_mean(on_grid(matrix)[rows], leaves.weights[first + rows], begins, size)
    least = order == np.repeat(np.minimum.reduceat(order, begins), size)
    number = np.where(least, leaves.numbers[first + rows], np.iinfo(np.int64).max)
    center = rows[number == np.repeat(np.minimum.reduceat(number, begins), size)]
    return np.maximum.reduceat(distances(matrix[rows], matrix[np.repeat(center, size)]), begins)


def _to_mean(scaled: np.ndarray, weights: np.ndarray, begins: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Squared distances (R,) of rows on the grid to the means of their groups."""
    sums = np.add.reduceat(scaled * weights[:, None], begins, axis=0)
    scaled -= np.repeat(sums / np.add.reduceat(weights, begins)[:, None], size, axis=0)
    return np.einsum("ij,ij->i", scaled, scaled)


def _chains(tree: Dendrogram, nodes: np.ndarray) -> Iterator[np.ndarray]:
    """Nodes with the same first leaf, inner ones first; a chain comes before that which the last of its nodes joins."""
    if not len(nodes):
        return
    nodes = nodes[np.argsort(tree.start[nodes], kind="stable")]
    begins = np.flatnonzero(np.r_[True, np.diff(tree.start[nodes]) > 0])
    ends = np.r_[begins[1:], len(nodes)]
    for number in np.argsort(nodes[ends - 1]):
        yield nodes[begins[number] : ends[number]]


def _first_far(leaves: Leaves, start: int, end: int, bound: float, rows: int) -> int:
    """The place of the first leaf that is farther than ``bound`` from the one at ``start``; ``end`` if none is."""
    (first,) = leaves.read(start, start + 1)
    for place, matrix in leaves.chunks(start + 1, end, rows=rows):
        far = np.flatnonzero(distances(matrix, first) > bound)
        if len(far):
            return place + int(far[0])
    return end
