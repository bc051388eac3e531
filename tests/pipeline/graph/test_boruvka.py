"""Forests in torch against scipy's."""

import numpy as np
import pytest
import torch

from pipeline.graph.boruvka import DeviceEdges, join, spanning_forest
from pipeline.graph.forest import Edges, minimum_spanning_forest

NAMES = ("a", "b", "distance")


def _edges(rng: np.random.Generator, nodes: int, count: int, levels: int) -> Edges:
    a, b = np.sort(rng.integers(0, nodes, (2, count)), axis=0)
    keep = a < b
    return Edges(a=a[keep], b=b[keep], distance=(rng.integers(0, levels, keep.sum()) / 7).astype(np.float32))


def _on_device(edges: Edges) -> DeviceEdges:
    return DeviceEdges(**{name: torch.from_numpy(getattr(edges, name)) for name in NAMES})


def _equal(found: DeviceEdges, expected: Edges) -> bool:
    return all(np.array_equal(getattr(found, name).numpy(), getattr(expected, name)) for name in NAMES)


@pytest.mark.parametrize(("nodes", "count"), [(2, 5), (50, 40), (50, 900), (1000, 700), (3000, 60_000)])
@pytest.mark.parametrize("levels", [1, 3, 1 << 20])
def test_the_forest_is_that_of_scipy_ties_included(nodes: int, count: int, levels: int) -> None:
    edges = _edges(np.random.default_rng([nodes, count, levels]), nodes, count, levels)
    assert _equal(spanning_forest(nodes, _on_device(edges)), minimum_spanning_forest(nodes, edges))


def test_a_chain_takes_few_rounds_and_a_hand_made_case_comes_out() -> None:
    chain = Edges(a=np.arange(999), b=np.arange(1, 1000), distance=np.arange(999, dtype=np.float32))
    assert _equal(spanning_forest(1000, _on_device(chain)), chain)
    triangle = Edges(a=np.array([0, 1, 0]), b=np.array([1, 2, 2]), distance=np.array([1, 1, 1], np.float32))
    assert spanning_forest(3, _on_device(triangle)).b.tolist() == [1, 2]
    assert spanning_forest(3, _on_device(triangle)).a.tolist() == [0, 0]


def test_parts_may_come_in_any_order() -> None:
    edges = _edges(np.random.default_rng(0), 400, 5000, 9)
    expected = minimum_spanning_forest(400, edges)
    held = _on_device(edges.take(np.arange(0)))
    for part in np.array_split(np.random.default_rng(1).permutation(len(edges)), 7):
        held = spanning_forest(400, join([held, _on_device(edges.take(part))]))
    assert _equal(held, expected)
