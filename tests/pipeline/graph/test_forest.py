import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.graph.forest import Edges, components, concatenate, minimum_spanning_forest


def kruskal(nodes: int, edges: Edges) -> set[tuple[int, int, float]]:
    """Brute force: edges in the order (distance, a, b), each taken if it joins two trees."""
    parent = list(range(nodes))

    def find(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    taken = set()
    for distance, a, b in sorted(zip(edges.distance.tolist(), edges.a.tolist(), edges.b.tolist())):
        if find(a) != find(b):
            parent[find(a)] = find(b)
            taken.add((a, b, distance))
    return taken


def random_edges(rng: np.random.Generator, nodes: int, count: int, levels: int) -> Edges:
    a, b = rng.integers(0, nodes, (2, count))
    different = a != b
    a, b = np.minimum(a, b)[different], np.maximum(a, b)[different]
    first = np.unique(a * nodes + b, return_index=True)[1]
    # Few levels: many ties, among them distance zero.
    distance = rng.integers(0, levels, len(first)).astype(np.float32) / levels
    return Edges(a=a[first], b=b[first], distance=distance)


def as_set(edges: Edges) -> set[tuple[int, int, float]]:
    return set(zip(edges.a.tolist(), edges.b.tolist(), edges.distance.tolist()))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("nodes", "count", "levels"), [(2, 1, 1), (30, 200, 3), (200, 400, 50), (50, 1200, 1)])
def test_equals_kruskal_and_merges_in_any_division(seed: int, nodes: int, count: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    edges = random_edges(rng, nodes, count, levels)
    forest = minimum_spanning_forest(nodes, edges)
    assert as_set(forest) == kruskal(nodes, edges)
    part = rng.integers(0, 3, len(edges))
    parts = [minimum_spanning_forest(nodes, edges.take(part == number)) for number in range(3)]
    merged = minimum_spanning_forest(nodes, concatenate([*parts[::-1], parts[0]]))
    assert as_set(merged) == as_set(forest)
    for threshold in (0.0, 0.3, 1.0):
        whole = components(nodes, edges.take(edges.distance <= threshold))
        assert np.array_equal(whole, components(nodes, forest.take(forest.distance <= threshold)))
        assert len(np.unique(whole)) == nodes - int((forest.distance <= threshold).sum())


def test_components_are_named_by_their_smallest_node_and_equal_scipy() -> None:
    edges = Edges(a=np.array([1, 3]), b=np.array([4, 4]), distance=np.zeros(2, np.float32))
    assert components(6, edges).tolist() == [0, 1, 2, 1, 1, 5]
    count = connected_components(coo_array((np.ones(2), (edges.a, edges.b)), shape=(6, 6)), directed=False)[0]
    assert count == len(set(components(6, edges).tolist()))


def test_no_edges() -> None:
    empty = Edges(a=np.empty(0, np.int64), b=np.empty(0, np.int64), distance=np.empty(0, np.float32))
    assert len(minimum_spanning_forest(5, empty)) == 0
    assert components(3, empty).tolist() == [0, 1, 2]
