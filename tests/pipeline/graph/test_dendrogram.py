import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from pipeline.graph.dendrogram import along_ancestors, dendrogram
from pipeline.graph.forest import Edges, minimum_spanning_forest


def forest_of(matrix: np.ndarray, reach: float = np.inf) -> Edges:
    """Of all pairs up to ``reach``; each row must have one."""
    distance = pdist(matrix).astype(np.float32)
    a, b = np.triu_indices(len(matrix), 1)
    near = distance <= reach
    return minimum_spanning_forest(len(matrix), Edges(a=a[near], b=b[near], distance=distance[near]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("power", [0.2, 1, 3])
def test_nodes_are_the_groups_of_scipys_single_linkage(seed: int, power: float) -> None:
    """``power``: from many equal groups to one that swallows leaf after leaf."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(80, 3)) * rng.random((80, 1)) ** power
    tree = dendrogram(80, forest_of(matrix))
    groups = [frozenset([leaf]) for leaf in range(80)]
    for number, (a, b, _, size) in enumerate(linkage(pdist(matrix), "single")):
        groups.append(groups[int(a)] | groups[int(b)])
        found = tree.leaves[tree.start[number] : tree.end[number]]
        assert frozenset(found.tolist()) == groups[-1] and len(found) == size


@pytest.mark.parametrize("seed", range(3))
def test_what_is_above_holds_what_is_below(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = np.concatenate([rng.normal(size=(rows, 2)) + 100 * rows for rows in (2, 9, 40)])
    edges = forest_of(matrix, reach=50)
    tree = dendrogram(len(matrix), edges)
    assert np.array_equal(np.sort(tree.leaves), np.arange(len(matrix)))
    count, values = len(edges), rng.random(len(edges))
    least, total = (along_ancestors(values, tree.above, combine) for combine in (np.minimum, np.add))
    for node in range(count):
        line = [node]
        while tree.above[line[-1]] < count:
            line.append(int(tree.above[line[-1]]))
        assert line == [
            other
            for other in range(node, count)
            if tree.start[other] <= tree.start[node] and tree.end[node] <= tree.end[other]
        ]
        assert least[node] == values[line].min() and total[node] == pytest.approx(values[line].sum())
    # The first leaves are those of the larger group, so few chains hold a leaf.
    for leaf in range(len(matrix)):
        holding = (tree.start <= leaf) & (leaf < tree.end)
        assert len(set(tree.start[holding].tolist())) <= np.log2(len(matrix)) + 1


def test_no_edges() -> None:
    tree = dendrogram(0, forest_of(np.zeros((0, 2))))
    assert len(tree.leaves) == len(tree.start) == 0
