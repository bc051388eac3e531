"""Which pairs of a crowded block can still be edges of a minimum spanning forest, judged from approximate distances.

Where a block of the distance matrix is full of near pairs (one picture, recompressed twenty thousand times), almost
none of them belongs to the forest. A pair does not if some other path joins its two ends by shorter steps only. The
longest step of the best such path, the pair's *bottleneck*, comes from Prim's algorithm: visiting nodes in Prim's
order, the bottleneck between two of them is the largest weight by which any node after the first, up to the second,
was joined (an order in which every cluster of single linkage is a contiguous run).
"""

import numpy as np

# Forest distances are compared after rounding to float32: pairs that differ by less than this may come out equal.
_FLOAT32_TIES = 2.0**-21


def forest_candidates(squared: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices i < j of all pairs that may be forest edges, for any way to break ties.

    ``squared``: (N, N) float64, symmetric, squared distances that are wrong by at most ``error``; infinite where there
    is no edge, and on the diagonal. Memory: two more such matrices. O(N²).
    """
    order, bottlenecks = _prim(squared)
    visited = squared[np.ix_(order, order)]
    # `visited` may be too small by `error`, and each step of the bottleneck too large.
    bottlenecks *= 1 + _FLOAT32_TIES
    bottlenecks += 2 * error
    later, earlier = np.nonzero((visited <= bottlenecks) & np.isfinite(visited))
    i, j = order[earlier], order[later]
    return np.minimum(i, j), np.maximum(i, j)


def _prim(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prim's order (N,), and in that order the bottleneck of every pair below the diagonal; -inf elsewhere."""
    nodes = len(weights)
    order = np.empty(nodes, np.int64)
    bottlenecks = np.full((nodes, nodes), -np.inf)
    nearest = np.full(nodes, np.inf)
    done = np.zeros(nodes, bool)
    current, joined_by = 0, np.inf
    for step in range(nodes):
        order[step] = current
        if step:
            row = bottlenecks[step]
            np.maximum(bottlenecks[step - 1, : step - 1], joined_by, out=row[: step - 1])
            row[step - 1] = joined_by
        done[current] = True
        np.minimum(nearest, weights[current], out=nearest)
        nearest[done] = np.inf
        current = int(nearest.argmin())
        joined_by = nearest[current]
        if joined_by == np.inf:
            # The next component begins, unless all nodes are visited.
            current = int(done.argmin())
    return order, bottlenecks
