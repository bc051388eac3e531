"""Radii of all groups of a dendrogram against each group apart, however many leaves are worked on at a time."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.balance import nested_radii
from pipeline.balance.centers import group_centers
from pipeline.balance.leaves import Leaves
from pipeline.balance.radii import radii
from pipeline.core.errors import EmbeddingError
from pipeline.graph.dendrogram import Dendrogram, dendrogram
from pipeline.graph.forest import Edges
from tests.oracles import unit
from tests.pipeline.graph.test_dendrogram import forest_of


def grown(seed: int, *, rows: int = 120, width: int = 5, type_: type = np.float32) -> np.ndarray:
    """Different vectors in blobs of all densities: groups that are nested deep, and groups of groups."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(4, width))
    spread = 0.6 * rng.random((rows, 1)) ** 2
    matrix = centers[rng.integers(4, size=rows)] + spread * rng.normal(size=(rows, width))
    return np.unique(unit(matrix).astype(type_), axis=0)


def tied(groups: int = 20) -> np.ndarray:
    """Groups with two members that are equally near to the mean, of which one is nearer to the farthest."""
    steps = np.array([-3, -2, -1, 1, 5]) / 16
    matrix = np.stack([np.tile(steps, groups), np.repeat(np.arange(groups), len(steps))], axis=1)
    return np.random.default_rng(0).permutation(matrix).astype(np.float32)


def in_order(
    folder: Path, matrix: np.ndarray, tree: Dendrogram, weights: np.ndarray, elected: np.ndarray | None
) -> Leaves:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix[tree.leaves].reshape(-1)), matrix.shape[1])
    parts = [vectors[begin : begin + 50] for begin in range(0, len(matrix), 50)]
    batches = [pa.RecordBatch.from_arrays([part], names=["image_embedding"]) for part in parts]
    places = None if elected is None else elected[tree.leaves]
    return Leaves(folder / "leaves.bin", batches, numbers=tree.leaves, weights=weights[tree.leaves], elected=places)


def expected(
    folder: Path, matrix: np.ndarray, tree: Dendrogram, weights: np.ndarray, elected: np.ndarray | None
) -> np.ndarray:
    """By :func:`group_centers`, which has every image as a row of its own; elected ones by hand."""
    found = []
    for start, end in zip(tree.start, tree.end):
        members = np.sort(tree.leaves[start:end])
        if elected is not None:
            center = matrix[members[elected[members].argmin()]].astype(np.float64)
            found.append(np.sqrt(((matrix[members] - center) ** 2).sum(axis=1)).astype(np.float32).max())
            continue
        members = np.repeat(members, weights[members])
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix[members].reshape(-1)), matrix.shape[1])
        columns = [pa.array(np.zeros(len(members), np.int64)), pa.array(np.arange(len(members))), vectors]
        batch = pa.RecordBatch.from_arrays(columns, names=["component", "image_id", "image_embedding"])
        (answer,) = group_centers([batch], folder)
        found.append(answer["distance_to_center"].to_numpy().max())
    return np.array(found, np.float32)


CASES = [*(grown(seed, type_=type_) for seed, type_ in enumerate([np.float16, np.float32, np.float64])), tied()]


@pytest.mark.parametrize("by", ["mean", "order"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_equals_each_group_apart_under_any_division(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: int, by: str
) -> None:
    rng = np.random.default_rng(case)
    matrix = CASES[case]
    edges = forest_of(matrix.astype(np.float64))
    tree = dendrogram(len(matrix), edges)
    weights = np.where(rng.random(len(matrix)) < 0.2, rng.integers(1, 6, len(matrix)), 1)
    if case == len(CASES) - 1:
        weights[:] = 1
    elected = rng.permutation(len(matrix)) if by == "order" else None
    answer = expected(tmp_path, matrix, tree, weights, elected)
    with in_order(tmp_path, matrix, tree, weights, elected) as leaves:
        for few, elements, groups in [(64, 10**6, (256, 8192)), (1, 10**6, (3, 9)), (1, 40, (4, 7)), (5, 3, (4, 7))]:
            monkeypatch.setattr(nested_radii, "_GROUPS", groups)
            for limit in (2, 0.4, 0.1):
                found = radii(leaves, tree, limit=limit, few=few, elements=elements)
                assert np.array_equal(found, np.where(answer <= limit, answer, np.inf))


def test_groups_that_are_too_wide_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of images along a quarter of a circle: of 2000 nested groups, those that reach too far cost nothing."""
    angle = np.cumsum(np.linspace(1, 2, 2000)) / 3000 * np.pi / 2
    matrix = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    steps = np.linalg.norm(np.diff(matrix, axis=0), axis=1).astype(np.float32)
    a = np.arange(len(steps))
    tree = dendrogram(len(matrix), Edges(a=a, b=a + 1, distance=steps).take(np.argsort(steps, kind="stable")))
    rows: list[int] = []
    read = Leaves.read

    def counted(self: Leaves, start: int, end: int) -> np.ndarray:
        rows.append(end - start)
        return read(self, start, end)

    monkeypatch.setattr(Leaves, "read", counted)
    with in_order(tmp_path, matrix, tree, np.ones(len(matrix), np.int64), None) as leaves:
        found = radii(leaves, tree, limit=0.01, elements=256)
    assert np.isfinite(found).any() and found[-1] == np.inf
    assert sum(rows) < 2 * len(matrix)


def test_vectors_of_two_widths_are_refused(tmp_path: Path) -> None:
    batches = [pa.RecordBatch.from_arrays([pa.array([row])], names=["image_embedding"]) for row in ([1.0], [0.6, 0.8])]
    with pytest.raises(EmbeddingError, match="mixed widths 1 and 2"):
        Leaves(tmp_path / "leaves.bin", batches, numbers=np.arange(2), weights=np.ones(2, np.int64))
