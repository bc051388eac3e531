"""The forest at any threshold against the graph itself."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from assets.explore.drawing import curve, tree
from assets.explore.forest import Forest
from pipeline.core.errors import EmbeddingError
from pipeline.graph.forest import Edges, minimum_spanning_forest


def graph(seed: int, nodes: int, count: int, levels: int) -> Edges:
    """A random graph; few levels make many ties."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, nodes, (2, count))
    low, high = np.minimum(a, b), np.maximum(a, b)
    distance = (rng.integers(0, levels, count) / levels).astype(np.float32)
    apart = low < high
    return Edges(a=low[apart], b=high[apart], distance=distance[apart])


def ids_of(nodes: int) -> np.ndarray:
    """Not the numbers themselves, and negative ones too."""
    return np.sort(np.random.default_rng(nodes).integers(-(2**62), 2**62, nodes))


def forest_of(edges: Edges, nodes: int) -> Forest:
    ids, found = ids_of(nodes), minimum_spanning_forest(nodes, edges)
    shuffled = np.random.default_rng(0).permutation(len(found))
    columns = (ids[found.a], ids[found.b], found.distance)
    return Forest.of(*(column[shuffled] for column in columns), images=nodes, reach=1.0)


def components_of(edges: Edges, nodes: int, threshold: float) -> set[frozenset[int]]:
    """Groups of two or more, of the whole graph."""
    near = edges.distance <= np.float32(threshold)
    ones = np.ones(int(near.sum()))
    count, labels = connected_components(coo_array((ones, (edges.a[near], edges.b[near])), shape=(nodes, nodes)))
    ids = ids_of(nodes)
    found = [frozenset(ids[labels == number].tolist()) for number in range(count)]
    return {group for group in found if len(group) > 1}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(0, 60), st.sampled_from([2, 5, 1000]))
def test_groups_are_those_of_the_graph(seed: int, nodes: int, count: int, levels: int) -> None:
    edges = graph(seed, nodes, count, levels)
    forest = forest_of(edges, nodes)
    for threshold in [0.0, 0.1, 0.35, 1.0, *np.unique(edges.distance).tolist()[:6]]:
        groups = forest.groups(threshold)
        found = [forest.members(start, end).tolist() for start, end in zip(groups.start, groups.end)]
        expected = components_of(edges, nodes, threshold)
        assert {frozenset(group) for group in found} == expected
        assert forest.removed(threshold) == sum(len(group) - 1 for group in expected)
        near = forest.edges.distance <= np.float32(threshold)
        for number, group in enumerate(found):
            inside = np.isin(forest.ids[forest.edges.a], group) & near
            np.testing.assert_allclose(groups.length[number], forest.edges.distance[inside].sum(), atol=1e-5)
            for image in group:
                place = forest.place_of(image)
                assert place is not None and groups.at(place) == number
        alone = set(forest.ids.tolist()) - {image for group in found for image in group}
        assert all(groups.at(forest.place_of(image) or 0) is None for image in alone)


def test_largest_and_longest_come_in_order() -> None:
    forest = forest_of(graph(3, 300, 260, 50), 300)
    groups = forest.groups(0.5)
    by_size = sorted(range(len(groups)), key=lambda number: (-groups.size[number], groups.start[number]))
    assert len(groups) > 20
    for count in (1, 5, len(groups), 1000):
        assert groups.largest(count) == by_size[:count]
    lengths = [groups.length[number] for number in groups.longest(10)]
    assert lengths == sorted(groups.length.tolist(), reverse=True)[:10]


def test_a_share_is_solved_for_and_the_border_is_around_a_threshold() -> None:
    forest = forest_of(graph(4, 200, 400, 1000), 200)
    for share in (0.0, 0.1, 0.437, 0.6):
        threshold = forest.threshold_for(share)
        assert forest.removed(threshold) >= share * 200
        below = np.nextafter(np.float32(threshold), np.float32(-1))
        assert share == 0 or forest.removed(float(below)) < share * 200
    assert forest.threshold_for(1.0) == 1.0
    under, over = forest.border(0.3, 4)
    distances = [*reversed([pair[2] for pair in under]), *[pair[2] for pair in over]]
    assert distances == sorted(distances) and under[0][2] <= 0.3 < over[0][2]
    assert len(under) == len(over) == 4 and forest.border(0.0, 4)[1][0][2] == forest.edges.distance[forest.removed(0.0)]


def test_no_edge_and_foreign_edges() -> None:
    nothing = np.empty(0, np.int64)
    forest = Forest.of(nothing, nothing, np.empty(0, np.float32), images=3, reach=0.5)
    assert (len(forest.groups(0.5)), forest.removed(0.5), forest.threshold_for(0.5)) == (0, 0, 0.5)
    assert forest.border(0.5, 3) == ([], []) and forest.place_of(7) is None
    assert curve(forest, 0.2).points
    with pytest.raises(EmbeddingError, match="edges of 2 images, and there are 1"):
        Forest.of(np.array([1]), np.array([2]), np.array([0.1], np.float32), images=1, reach=0.5)


def test_a_tree_joins_what_its_edges_join() -> None:
    forest = forest_of(graph(5, 120, 500, 12), 120)
    groups = forest.groups(0.9)
    (number,) = groups.largest(1)
    start, end = int(groups.start[number]), int(groups.end[number])
    whole, cut = (tree(forest, start, end, leaves=leaves) for leaves in (1000, 12))
    inner = np.sort(forest.gap[start + 1 : end].astype(float))
    assert [leaf.size for leaf in whole.leaves] == [1] * (end - start)
    assert [distance for *_, distance in whole.marks] == inner.tolist()
    assert [distance for *_, distance in cut.marks] == inner[-11:].tolist()
    assert len(cut.leaves) == 12 and sum(leaf.size for leaf in cut.leaves) == end - start
    assert len(whole.lines) == 3 * len(whole.marks) and whole.longest == inner[-1]
    assert all(before.y < after.y for before, after in pairwise(whole.leaves))
    # Lines go from left to right, and the last mark is the root.
    assert all(x1 <= x2 for x1, _, x2, _ in whole.lines) and whole.marks[-1][0] == whole.width
