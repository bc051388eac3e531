import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

from pipeline.graph.contraction import without_nodes
from pipeline.graph.forest import Edges, components, minimum_spanning_forest


def partition(labels: np.ndarray, nodes: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(nodes[labels[nodes] == label].tolist()) for label in np.unique(labels[nodes])}


def graph(rng: np.random.Generator, nodes: int, levels: int | None) -> tuple[np.ndarray, Edges]:
    """Distances between random points of the plane, rounded to a few levels to make ties; and all pairs as edges."""
    distance = squareform(pdist(rng.random((nodes, 2)))).astype(np.float32)
    if levels:
        distance = (np.ceil(distance * levels) / levels).astype(np.float32)
    a, b = np.triu_indices(nodes, 1)
    near = distance[a, b] <= 0.5
    return distance, Edges(a=a[near], b=b[near], distance=distance[a, b][near])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("levels", [None, 8, 2])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_groups_at_every_threshold_are_those_of_the_whole_graph(seed: int, levels: int | None, share: float) -> None:
    rng = np.random.default_rng(seed)
    nodes = 60
    distance, edges = graph(rng, nodes, levels)
    dropped = rng.random(nodes) < share
    left = np.flatnonzero(~dropped)
    forest = without_nodes(nodes, minimum_spanning_forest(nodes, edges), dropped)
    assert not (dropped[forest.a] | dropped[forest.b]).any()
    assert (forest.a < forest.b).all()
    for threshold in np.unique(np.r_[edges.distance[:: max(1, len(edges) // 25)], 0.5]):
        whole = partition(connected_components(distance <= threshold)[1], left)
        within = forest.take(forest.distance <= threshold)
        assert partition(components(nodes, within), left) == whole
        assert len(left) - len(within) == len(whole)


def test_star_chain_and_group_that_is_dropped_whole() -> None:
    star = Edges(a=np.array([0, 0, 0]), b=np.array([1, 2, 3]), distance=np.array([0.1, 0.2, 0.3], np.float32))
    found = without_nodes(4, star, np.array([True, False, False, False]))
    assert list(zip(found.a, found.b, found.distance.round(1))) == [(1, 2, np.float32(0.2)), (1, 3, np.float32(0.3))]
    chain = Edges(a=np.arange(9), b=np.arange(1, 10), distance=np.linspace(0.9, 0.1, 9, dtype=np.float32))
    middle = np.ones(10, bool)
    middle[[0, 9]] = False
    found = without_nodes(10, chain, middle)
    # Both ends meet when the longest edge between them is bridged.
    assert list(zip(found.a, found.b, found.distance)) == [(0, 9, np.float32(0.9))]
    assert len(without_nodes(10, chain, np.ones(10, bool))) == 0
    assert len(without_nodes(10, chain, np.zeros(10, bool))) == 9
