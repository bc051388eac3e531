"""How groups grow: the forest read from its shortest edge to its longest, as Kruskal's algorithm took them."""

import dataclasses

import duckdb
import numpy as np

from pipeline.graph.forest import Edges, components

_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Merges:
    """The edges of a forest by (distance, id_a, id_b), and what each joins.

    ``ids`` (V,) int64: those that stand in an edge, ascending; ``edges``: between indices into them. ``smaller`` (E,)
    int64: size of the smaller of the two groups that an edge joins; ``largest`` (E,) int64: size of the largest group
    once it has.
    """

    ids: np.ndarray
    edges: Edges
    smaller: np.ndarray
    largest: np.ndarray

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection) -> "Merges":
        """Read from the relation ``forest``; about 5 µs of a core and 250 bytes an edge."""
        text = "SELECT id_a, id_b, distance FROM forest ORDER BY distance, id_a, id_b"
        table = connection.sql(text).to_arrow_table()
        ends = np.concatenate([table["id_a"].to_numpy(), table["id_b"].to_numpy()])
        ids, places = np.unique(ends, return_inverse=True)
        count = table.num_rows
        edges = Edges(a=places[:count], b=places[count:], distance=table["distance"].to_numpy())
        return cls(ids, edges, *_sizes(len(ids), edges))

    def up_to(self, threshold: float) -> int:
        """How many edges a threshold has, compared as float32, in which distances are stored."""
        return int(np.searchsorted(self.edges.distance, np.float32(threshold), side="right"))

    def largest_group(self, count: int) -> int:
        """Size of the largest group that the first ``count`` edges make; 1 without any."""
        return int(self.largest[count - 1]) if count else 1

    def largest_merge(self, start: int, end: int) -> int:
        """Of the edges from ``start`` to before ``end``, the largest smaller side; 0 without any."""
        return int(self.smaller[start:end].max(initial=0))

    def groups(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the images in groups of two or more that the first ``count`` edges make, ascending, and for each the
        smallest id of its group."""
        labels = components(len(self.ids), self.edges.take(np.arange(count)))
        grouped = np.zeros(len(self.ids), bool)
        grouped[self.edges.a[:count]] = grouped[self.edges.b[:count]] = True
        return self.ids[grouped], self.ids[labels[grouped]]


def _sizes(nodes: int, edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    parent, size = list(range(nodes)), [1] * nodes
    smaller, largest = np.empty(len(edges), np.int64), np.empty(len(edges), np.int64)
    most = 1
    # Lists are several times faster than arrays here, but larger: a piece of the edges at a time.
    for start in range(0, len(edges), _CHUNK):
        part = slice(start, start + _CHUNK)
        for number, (a, b) in enumerate(zip(edges.a[part].tolist(), edges.b[part].tolist()), start):
            first, second = _root(parent, a), _root(parent, b)
            if size[first] < size[second]:
                first, second = second, first
            parent[second] = first
            smaller[number] = size[second]
            size[first] += size[second]
            most = max(most, size[first])
            largest[number] = most
    return smaller, largest


def _root(parent: list[int], node: int) -> int:
    while parent[node] != node:
        parent[node] = node = parent[parent[node]]
    return node
