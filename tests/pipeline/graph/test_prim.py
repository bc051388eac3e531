import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from pipeline.graph.prim import _prim, forest_candidates
from tests.oracles import kruskal, unit


def _graph(rng: np.random.Generator, nodes: int, kind: str) -> np.ndarray:
    if kind == "ties":
        weights = rng.integers(1, 4, (nodes, nodes)).astype(float)
    elif kind == "sparse":
        weights = np.where(rng.random((nodes, nodes)) < 2 / nodes, rng.random((nodes, nodes)), np.inf)
    else:
        weights = rng.random((nodes, nodes))
    weights = np.triu(weights, 1)
    weights = weights + weights.T
    np.fill_diagonal(weights, np.inf)
    return weights


def _minimax(weights: np.ndarray) -> np.ndarray:
    """The largest step of the best path between all pairs, by Floyd and Warshall."""
    best = weights.copy()
    for middle in range(len(best)):
        best = np.minimum(best, np.maximum(best[:, middle : middle + 1], best[middle : middle + 1]))
    return best


@pytest.mark.parametrize("kind", ["dense", "sparse", "ties"])
@pytest.mark.parametrize("nodes", [1, 2, 3, 17, 60])
def test_bottlenecks_equal_floyd_warshall(kind: str, nodes: int) -> None:
    for seed in range(5):
        weights = _graph(np.random.default_rng(seed), nodes, kind)
        order, bottlenecks = _prim(weights)
        assert sorted(order) == list(range(nodes))
        expected = _minimax(weights)[np.ix_(order, order)]
        below = np.tril_indices(nodes, -1)
        assert np.array_equal(bottlenecks[below], expected[below])


@pytest.mark.parametrize("kind", ["dense", "sparse", "ties"])
def test_candidates_hold_every_forest_edge(kind: str) -> None:
    for seed in range(10):
        weights = _graph(np.random.default_rng(seed), 40, kind)
        i, j = forest_candidates(weights, 0.0)
        assert (i < j).all()
        a, b = np.nonzero(np.triu(np.isfinite(weights), 1))
        forest = kruskal(list(zip(a.tolist(), b.tolist(), weights[a, b].tolist())))
        assert {edge[:2] for edge in forest} <= set(zip(i.tolist(), j.tolist()))


def test_few_candidates_are_left_of_a_crowd() -> None:
    rng = np.random.default_rng(0)
    rows = unit(unit(rng.normal(size=(1, 256))) + 0.1 * rng.normal(size=(400, 256)) / 16)
    squared = squareform(pdist(rows, "sqeuclidean"))
    np.fill_diagonal(squared, np.inf)
    i, _ = forest_candidates(squared, 1e-12)
    assert len(i) == 399


def test_error_of_the_weights_is_allowed_for() -> None:
    rng = np.random.default_rng(1)
    true = _graph(rng, 30, "dense")
    noise = np.triu(rng.uniform(-0.05, 0.05, true.shape), 1)
    a, b = np.triu_indices(30, 1)
    forest = kruskal(list(zip(a.tolist(), b.tolist(), true[a, b].tolist())))
    i, j = forest_candidates(true + noise + noise.T, 0.05)
    assert {edge[:2] for edge in forest} <= set(zip(i.tolist(), j.tolist()))
