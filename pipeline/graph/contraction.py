"""A near-duplicate forest without some of its nodes: what single linkage says of the others, nothing computed anew.

Dropping a node with its edges would lose the pairs that are linked through it. Instead it is merged into the neighbor
at the end of its shortest edge: at any smaller threshold it is a group by itself and links nothing, at any larger one
it belongs to that neighbor's group, and its other edges may as well start there. The forest that is left has, at
every threshold, the groups of the whole forest less the dropped nodes, and one edge for each image that the threshold
removes.
"""

import numpy as np

from pipeline.graph.forest import Edges


def without_nodes(nodes: int, edges: Edges, dropped: np.ndarray) -> Edges:
    """The forest over the nodes that are not ``dropped`` (nodes,) bool, ordered by (distance, a, b) of ``edges``.

    ``edges`` must be a forest. Borůvka's rounds: in each, every dropped node merges along its shortest edge, so their
    number at least halves. O(E log E) in all.
    """
    edges = edges.take(np.lexsort((edges.b, edges.a, edges.distance)))
    a, b, distance = edges.a.copy(), edges.b.copy(), edges.distance
    dropped = dropped.copy()
    while (dropped[a] | dropped[b]).any():
        target, used = _merges(nodes, a, b, dropped)
        a, b, distance = target[a[~used]], target[b[~used]], distance[~used]
    return Edges(a=np.minimum(a, b), b=np.maximum(a, b), distance=distance)


def _merges(nodes: int, a: np.ndarray, b: np.ndarray, dropped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each node goes (nodes,), and which edges (E,) are used up by that. Edges are ordered, shortest first."""
    places = np.arange(len(a))
    shortest = np.full(nodes, len(a))
    np.minimum.at(shortest, a, places)
    np.minimum.at(shortest, b, places)
    merging = np.flatnonzero(dropped & (shortest < len(a)))
    used = np.zeros(len(a), bool)
    used[shortest[merging]] = True
    target = np.arange(nodes)
    target[merging] = a[shortest[merging]] + b[shortest[merging]] - merging
    # Edges get shorter along the way, so it ends in a node that stays, or in two dropped ones that chose each other.
    mutual = merging[(target[target[merging]] == merging) & (merging < target[merging])]
    target[mutual] = mutual
    while (target[target] != target).any():
        target = target[target]
    return target, used
