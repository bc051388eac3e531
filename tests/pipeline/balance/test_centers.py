from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.balance.centers import group_centers
from pipeline.core.errors import EmbeddingError


def batches(group: np.ndarray, ids: np.ndarray, matrix: np.ndarray, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(ids), rows):
        part = slice(start, start + rows)
        vectors = pa.array(list(matrix[part]))
        names = ["component", "image_id", "image_embedding"]
        yield pa.RecordBatch.from_arrays([pa.array(group[part]), pa.array(ids[part]), vectors], names=names)


def unit(rng: np.random.Generator, rows: int, width: int, type_: type) -> np.ndarray:
    matrix = rng.normal(size=(rows, width)) + 2
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(type_)


@pytest.mark.parametrize("type_", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_equals_one_group_at_a_time_under_any_batch_size(tmp_path: Path, type_: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.r_[rng.integers(2, 9, 30), 700, 2, 300, rng.integers(2, 5, 5)]
    group = np.repeat(np.arange(len(sizes)), sizes) * 10 - 40
    ids = np.arange(len(group)) * 3 - 500
    matrix = unit(rng, len(group), 8, type_)
    expected = []
    for label in np.unique(group):
        members = group == label
        part = matrix[members].astype(np.float64)
        to_mean = ((part - part.mean(axis=0)) ** 2).sum(axis=1)
        # In float64 the two members of a pair are not equally far from their mean, but for the grid they are.
        nearest = np.flatnonzero(to_mean <= to_mean.min() + (1e-8 if type_ is np.float64 else 0))[0]
        distance = np.sqrt(((part - part[nearest]) ** 2).sum(axis=1)).astype(np.float32)
        expected += list(zip(ids[members], [ids[members][nearest]] * len(part), distance))
    for rows in (1, 7, 64, 10_000):
        for elements in (8, 80, 1000, 2401, 10**6):
            found = pa.Table.from_batches(group_centers(batches(group, ids, matrix, rows), tmp_path, elements=elements))
            assert list(zip(*(column.to_pylist() for column in found.columns))) == expected, (rows, elements)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("type_", [np.float16, np.float32])
def test_ties_go_to_the_smallest_id_however_a_giant_group_is_cut(tmp_path: Path, type_: type) -> None:
    """Every vector stands with its mirror image around one direction, so each distance to the mean occurs twice."""
    rng = np.random.default_rng(5)
    half = rng.normal(scale=0.1, size=(500, 7)).astype(type_)
    matrix = np.concatenate([half, -half])
    matrix = np.c_[np.full(len(matrix), 0.9, type_), matrix]
    order = rng.permutation(len(matrix))
    matrix, ids = matrix[order], np.arange(len(matrix))
    to_mean = (matrix[:, 1:].astype(np.float64) ** 2).sum(axis=1)
    smallest = int(np.flatnonzero(to_mean == to_mean.min()).min())
    assert (to_mean == to_mean.min()).sum() == 2
    for rows, elements in [(1, 8), (13, 100), (64, 4000), (1000, 10**6), (999, 7992)]:
        group = np.zeros(len(ids), np.int64)
        found = pa.Table.from_batches(group_centers(batches(group, ids, matrix, rows), tmp_path, elements=elements))
        assert set(found["center_id"].to_pylist()) == {smallest}, (rows, elements)


def test_memory_does_not_grow_with_the_group(tmp_path: Path) -> None:
    """Neither numpy's nor Arrow's; batches come as from DuckDB, where a view of one column keeps the whole batch."""
    import tracemalloc

    def peak(rows: int) -> int:
        rng = np.random.default_rng(0)
        source = (
            next(batches(np.zeros(512, np.int64), np.arange(start, start + 512), unit(rng, 512, 64, np.float32), 512))
            for start in range(0, rows, 512)
        )
        fields = [("component", pa.int64()), ("image_id", pa.int64()), ("image_embedding", pa.list_(pa.float32()))]
        imported = pa.RecordBatchReader.from_stream(pa.RecordBatchReader.from_batches(pa.schema(fields), source))
        before, arrow, total = pa.total_allocated_bytes(), 0, 0
        tracemalloc.start()
        for batch in group_centers(imported, tmp_path, elements=65_536):
            total += batch.num_rows
            arrow = max(arrow, pa.total_allocated_bytes() - before)
        assert total == rows
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest + arrow

    peak(4096)  # what is imported and cached on first use is not counted
    small, large = peak(4096), peak(65_536)
    # Sixteen times the rows: 16 MB of vectors more, of which only ids (8 bytes a row) may be held.
    assert large - small < 1_500_000, (small, large)


def test_no_rows(tmp_path: Path) -> None:
    assert list(group_centers(iter(()), tmp_path)) == []


def test_nulls_and_mixed_widths_are_refused(tmp_path: Path) -> None:
    group, ids = np.zeros(2, np.int64), np.arange(2)
    wide = batches(group, ids, np.ones((2, 3), np.float32), 2)
    narrow = batches(group, ids + 2, np.ones((2, 2), np.float32), 2)
    with pytest.raises(EmbeddingError, match="mixed widths 3 and 2"):
        list(group_centers((next(wide), next(narrow)), tmp_path))
    names = ["component", "image_id", "image_embedding"]
    null = pa.RecordBatch.from_arrays([pa.array(group), pa.array(ids), pa.array([[1.0], None])], names=names)
    with pytest.raises(EmbeddingError, match="1 nulls"):
        list(group_centers((null,), tmp_path))
