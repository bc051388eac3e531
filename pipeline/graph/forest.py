"""Minimum spanning forests of near-duplicate graphs, with ties broken so that the forest is unique.

Edges are ordered by (distance, a, b). Under that order the minimum spanning forest is unique, and

    MSF(A ∪ B) = MSF(MSF(A) ∪ MSF(B)),

so edges may arrive in any number of parts and in any order. Its components at any distance t are those of the whole
graph at t (single linkage).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edges:
    """Edges between dense node indices: ``a`` < ``b`` (E,) int64 and ``distance`` (E,) float32."""

    a: np.ndarray
    b: np.ndarray
    distance: np.ndarray

    def __len__(self) -> int:
        return len(self.a)

    def take(self, which: np.ndarray) -> "Edges":
        return Edges(a=self.a[which], b=self.b[which], distance=self.distance[which])


def no_edges() -> Edges:
    return Edges(a=np.empty(0, np.int64), b=np.empty(0, np.int64), distance=np.empty(0, np.float32))


def concatenate(parts: Sequence[Edges]) -> Edges:
    return Edges(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in ("a", "b", "distance")})


def minimum_spanning_forest(nodes: int, edges: Edges) -> Edges:
    """The forest of ``edges`` over ``nodes`` nodes, at most nodes - 1 edges, ordered by (distance, a, b).

    O(E log E) time and O(E) memory, however many nodes have no edge. scipy solves it on ranks instead of distances:
    ranks are distinct, which makes the answer unique, and never zero, which scipy would take for a missing edge.
    """
    # Here, since it takes as long to import as all else that a run without work does.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    if not len(edges):
        return no_edges()
    ordered = edges.take(np.lexsort((edges.b, edges.a, edges.distance)))
    ordered = ordered.take(_first_of_pair(nodes, ordered))
    a, b = ordered.a, ordered.b
    if 2 * len(ordered) < nodes:
        # Renumbered among the nodes that have an edge; the order of numbers stays.
        ends = np.unique(np.concatenate([a, b]))
        a, b, nodes = np.searchsorted(ends, a), np.searchsorted(ends, b), len(ends)
    graph = coo_array((np.arange(1, len(ordered) + 1, dtype=np.float64), (a, b)), shape=(nodes, nodes))
    ranks = np.sort(minimum_spanning_tree(graph.tocsr()).data).astype(np.int64)
    return ordered.take(ranks - 1)


class ForestBuilder:
    """The minimum spanning forest of a stream of edges, in memory of the order of the forest itself.

    Edges are held back until there are as many as the forest has, and at least ``batch``; then both are merged.
    """

    def __init__(self, nodes: int, *, batch: int = 1 << 20):
        self._nodes, self._batch = nodes, batch
        self._forest, self._held, self._count = no_edges(), list[Edges](), 0

    def add(self, edges: Edges) -> None:
        self._held.append(edges)
        self._count += len(edges)
        if self._count >= max(self._batch, len(self._forest)):
            self._merge()

    def forest(self) -> Edges:
        """The forest of everything that was added, ordered by (distance, a, b)."""
        self._merge()
        return self._forest

    def _merge(self) -> None:
        if self._count:
            self._forest = minimum_spanning_forest(self._nodes, concatenate([self._forest, *self._held]))
            self._held, self._count = [], 0


def components(nodes: int, edges: Edges) -> np.ndarray:
    """For each node (nodes,) int64 the smallest node of its connected component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(edges), np.int8), (edges.a, edges.b)), shape=(nodes, nodes))
    count, labels = connected_components(graph, directed=False)
    smallest = np.full(count, nodes, np.int64)
    np.minimum.at(smallest, labels, np.arange(nodes))
    return smallest[labels]


def _first_of_pair(nodes: int, ordered: Edges) -> np.ndarray:
    """Positions of the first edge of each pair: scipy would add up the weights of repeated ones."""
    pairs = ordered.a * nodes + ordered.b
    by_pair = np.argsort(pairs, kind="stable")
    pairs = pairs[by_pair]
    return np.sort(by_pair[np.concatenate([[True], pairs[1:] != pairs[:-1]])])
