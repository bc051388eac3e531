"""Radii of groups that are nested, each with some leaves more than the one before, as single linkage makes them.

Their sums are added up from one to the next. A mean moves little as a group grows, so the members nearest to it are
looked for among those that were nearest to another mean before: distances to one mean of a block of groups are taken
for all rows; by the triangle inequality only rows near enough to it can be a center in this block. Float products
narrow these down, and the center is decided by explicit distances on the grid of :mod:`pipeline.balance.centers`, with
its rule for ties, so it is the same bit by bit. Distances from a center are taken once, for rows that come later too.

So a chain of n groups costs what a few dozen passes over its n rows cost, and for very large n one pass for each 8192
groups, where each group apart would cost n / 2 passes.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.balance.centers import GRID, distances, on_grid
from pipeline.balance.leaves import Leaves

_GROUPS = 256, 8192
"""Least and most groups of a block."""

_GROWTH = 16
"""A block ends when a group has grown by one part of so many."""

# Far more than float64 errs for vectors of length 1, in distances and in squares of them.
_SLACK, _SQUARED_SLACK = 1e-9 * GRID, 1e-10 * GRID**2


def nested_radii(leaves: Leaves, start: int, ends: np.ndarray, *, limit: float, elements: int) -> np.ndarray:
    """(K,) float32: the radius of ``start`` to ``end`` for each of the ascending ``ends`` (K,), or, where it is beyond
    ``limit``, any number that is."""
    rows = max(1, elements // leaves.width)
    found = np.full(len(ends), np.inf, np.float32)
    seen: dict[int, tuple[np.float32, int]] = {}
    begin = 0
    for centers in _centers(leaves, start, ends, elements):
        runs = np.flatnonzero(np.r_[True, centers[1:] != centers[:-1]])
        for first, last in zip(runs, [*runs[1:], len(centers)]):
            groups, center = slice(begin + first, begin + last), int(centers[first])
            radius, done = seen.get(center, (np.float32(0), start))
            (vector,) = leaves.read(center, center + 1)
            for place, matrix in leaves.chunks(done, int(ends[groups][-1]), rows=rows):
                if radius > limit:
                    break
                reached = np.maximum(np.maximum.accumulate(distances(matrix, vector)), radius)
                inside = np.arange(*np.searchsorted(ends[groups], [place + 1, place + len(matrix) + 1])) + groups.start
                found[inside] = reached[ends[inside] - 1 - place]
                radius = reached[-1]
            seen[center] = radius, int(ends[groups][-1])
        begin += len(centers)
    return found


def _centers(leaves: Leaves, start: int, ends: np.ndarray, elements: int) -> Iterator[np.ndarray]:
    """The row that stands for each group, block after block."""
    if leaves.elected is not None:
        order = leaves.elected[start : ends[-1]]
        records = np.where(order == np.minimum.accumulate(order), np.arange(len(order)), 0)
        yield start + np.maximum.accumulate(records)[ends - 1 - start]
        return
    images = np.cumsum(leaves.weights[start : ends[-1]])
    total, begin = np.zeros(leaves.width), 0
    while begin < len(ends):
        least, most = _GROUPS
        groups = min(max(least, int(ends[begin] - start) // _GROWTH), most, max(1, elements // leaves.width))
        block = ends[begin : begin + groups]
        done = int(ends[begin - 1]) if begin else start
        sums = total + np.cumsum(_sums(leaves, done, block, elements), axis=0)
        yield _nearest(leaves, start, block, sums / images[block - 1 - start, None], elements)
        total, begin = sums[-1], begin + len(block)


def _sums(leaves: Leaves, start: int, ends: np.ndarray, elements: int) -> np.ndarray:
    """(K, D) on the grid: the sum of the rows from each end to the next, the first from ``start``."""
    sums = np.zeros((len(ends), leaves.width))
    for place, matrix in leaves.chunks(start, int(ends[-1]), rows=max(1, elements // leaves.width)):
        part = slice(place, place + len(matrix))
        group = np.searchsorted(ends, np.arange(part.start, part.stop), "right")
        begins = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        sums[group[begins]] += np.add.reduceat(on_grid(matrix) * leaves.weights[part, None], begins, axis=0)
    return sums


def _nearest(leaves: Leaves, start: int, ends: np.ndarray, means: np.ndarray, elements: int) -> np.ndarray:
    """(K,): the row nearest to each mean (K, D) among those from ``start`` to its end, of equal ones that of the
    smallest number."""
    best = _Best(len(ends))
    possible = _possible(leaves, start, ends, means, elements)
    squares = np.einsum("ij,ij->i", means, means)
    for place, matrix in leaves.chunks(start, int(ends[-1]), rows=max(1, elements // max(leaves.width, len(ends)))):
        rows = np.flatnonzero(possible[place - start : place - start + len(matrix)])
        if not len(rows):
            continue
        scaled = on_grid(matrix[rows])
        rows += place
        squared = np.einsum("ij,ij->i", scaled, scaled)[:, None] - 2 * (scaled @ means.T) + squares
        squared[rows[:, None] >= ends] = np.inf
        row, group = np.nonzero(squared <= np.minimum(squared.min(axis=0), best.squared) + _SQUARED_SLACK)
        step = max(1, elements // leaves.width)
        for begin in range(0, len(row), step):
            chosen, of = row[begin : begin + step], group[begin : begin + step]
            difference = scaled[chosen] - means[of]
            exact = np.einsum("ij,ij->i", difference, difference)
            best.take(of, exact, leaves.numbers[rows[chosen]], rows[chosen])
    return best.row


def _possible(leaves: Leaves, start: int, ends: np.ndarray, means: np.ndarray, elements: int) -> np.ndarray:
    """(R,) bool: which rows from ``start`` to the last end can be the nearest to one of the means."""
    middle = means[len(means) // 2]
    difference = means - middle
    moved = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    parts = []
    for _, matrix in leaves.chunks(start, int(ends[-1]), rows=max(1, elements // leaves.width)):
        scaled = on_grid(matrix)
        scaled -= middle
        parts.append(np.sqrt(np.einsum("ij,ij->i", scaled, scaled)))
    to_middle = np.concatenate(parts)
    bounds = np.minimum.accumulate(to_middle)[ends - 1 - start] + 2 * moved + _SLACK
    # A row may be the center of any group from the first that holds it on.
    bounds = np.maximum.accumulate(bounds[::-1])[::-1]
    return np.asarray(to_middle <= bounds[np.searchsorted(ends, np.arange(start, ends[-1]), "right")])


class _Best:
    """For each of K groups the ``row`` found so far, with its ``squared`` distance to the mean and its number."""

    def __init__(self, groups: int):
        self.squared, self.row = np.full(groups, np.inf), np.full(groups, -1)
        self._number = np.full(groups, np.iinfo(np.int64).max)

    def take(self, group: np.ndarray, squared: np.ndarray, number: np.ndarray, row: np.ndarray) -> None:
        order = np.lexsort((number, squared, group))
        order = order[np.flatnonzero(np.r_[True, np.diff(group[order]) > 0])] if len(order) else order
        group, squared, number, row = group[order], squared[order], number[order], row[order]
        nearer = (squared < self.squared[group]) | ((squared == self.squared[group]) & (number < self._number[group]))
        group = group[nearer]
        self.squared[group], self._number[group], self.row[group] = squared[nearer], number[nearer], row[nearer]
