"""The central image of each group, from a stream of embeddings ordered by group, in memory that no group's size moves.

The center is the member nearest (Euclidean) to the mean of its group's embeddings; ties go to the smallest
``image_id``. For that, coordinates are taken to a grid of 2^-28, as integers in float64: float16 lies on the grid as
it is, float32 moves by at most 2e-9. Sums of such integers are exact below 2^53, that is for any group of up to 2^25
members with one coordinate at 1 and for far larger ones in practice. So a mean does not depend on how the rows of a
group were cut into batches, and equal vectors are equally far from it. Distances to the center are explicit
differences of the stored vectors in float64, rounded to float32.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core import schema
from pipeline.core.errors import EmbeddingError
from pipeline.vectors.read import list_matrix

CENTERS = pa.schema(
    [
        schema.IMAGE_ID,
        pa.field("center_id", pa.int64(), nullable=False),
        pa.field("distance_to_center", pa.float32(), nullable=False),
    ]
)

ELEMENTS = 4_000_000
"""Floats of embeddings that are worked on at a time; about ten times as many bytes are held for each."""

GRID = 2.0**28


class _Rows:
    """Consecutive rows of the stream: ``group`` (R,), ``ids`` (R,) and ``matrix`` (R, D)."""

    def __init__(self, group: np.ndarray, ids: np.ndarray, matrix: np.ndarray):
        self.group, self.ids, self.matrix = group, ids, matrix

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, start: int, end: int | None = None) -> "_Rows":
        return _Rows(self.group[start:end], self.ids[start:end], self.matrix[start:end])

    def then(self, other: "_Rows") -> "_Rows":
        if self.matrix.shape[1] != other.matrix.shape[1]:
            raise EmbeddingError(f"embeddings of mixed widths {self.matrix.shape[1]} and {other.matrix.shape[1]}")
        pairs = ((self.group, other.group), (self.ids, other.ids), (self.matrix, other.matrix))
        return _Rows(*(np.concatenate(pair) for pair in pairs))


def group_centers(
    batches: Iterable[pa.RecordBatch], scratch: Path, *, elements: int = ELEMENTS
) -> Iterator[pa.RecordBatch]:
    """``CENTERS`` of all rows, in their order.

    ``batches``: ``component, image_id, image_embedding``, ordered by the first two. A group of more than ``elements``
    floats is written to a file under ``scratch`` and read again twice. The result does not depend on ``elements`` or
    on the size of the batches. Raises :class:`EmbeddingError` for nulls and mixed widths.
    """
    held: _Rows | None = None
    spool: _Spool | None = None
    for read in _parts(batches, elements):
        rows = read
        if spool is not None:
            same = int(np.searchsorted(rows.group, spool.group, side="right"))
            spool.append(rows.cut(0, same))
            if same == len(rows):
                continue
            yield from spool.centers()
            spool, rows = None, rows.cut(same)
        held = rows if held is None else held.then(rows)
        open_at = int(np.searchsorted(held.group, held.group[-1]))
        if open_at:
            yield _centers_of(held.cut(0, open_at))
            held = held.cut(open_at)
        if held.matrix.size > elements:
            spool = _Spool(scratch, held)
            held = None
    if spool is not None:
        yield from spool.centers()
    if held is not None:
        yield _centers_of(held)


def _parts(batches: Iterable[pa.RecordBatch], elements: int) -> Iterator[_Rows]:
    for batch in batches:
        matrix = list_matrix(batch.column("image_embedding"), what="image_embedding")
        # Ids are copied: a view of one column would keep the whole batch of DuckDB's alive, embeddings included.
        rows = _Rows(batch.column("component").to_numpy(), batch.column("image_id").to_numpy().copy(), matrix)
        step = max(1, elements // max(matrix.shape[1], 1))
        for start in range(0, len(rows), step):
            yield rows.cut(start, start + step)


def _centers_of(rows: _Rows) -> pa.RecordBatch:
    """Whole groups, many at a time. Members are ordered by id, so the first of the nearest has the smallest."""
    starts = np.flatnonzero(np.r_[True, rows.group[1:] != rows.group[:-1]])
    sizes = np.diff(np.r_[starts, len(rows)])
    scaled = on_grid(rows.matrix)
    means = np.add.reduceat(scaled, starts, axis=0) / sizes[:, None]
    scaled -= np.repeat(means, sizes, axis=0)
    to_mean = np.einsum("ij,ij->i", scaled, scaled)
    nearest = to_mean == np.repeat(np.minimum.reduceat(to_mean, starts), sizes)
    center = np.minimum.reduceat(np.where(nearest, np.arange(len(rows)), len(rows)), starts)
    of_row = np.repeat(center, sizes)
    return _batch(rows.ids, rows.ids[of_row], rows.matrix, rows.matrix[of_row])


class _Spool:
    """One group that is too large to hold: its rows go to a file while their sum is taken, then are read twice more."""

    def __init__(self, scratch: Path, first: _Rows):
        self.group = first.group[0]
        self._path = scratch / "group.bin"
        self._file = self._path.open("wb")
        self._width, self._type = first.matrix.shape[1], first.matrix.dtype
        self._sum = np.zeros(self._width)
        self._ids: list[np.ndarray] = []
        self._parts: list[int] = []
        self.append(first)

    def append(self, rows: _Rows) -> None:
        if not len(rows):
            return
        if rows.matrix.shape[1] != self._width:
            raise EmbeddingError(f"embeddings of mixed widths {self._width} and {rows.matrix.shape[1]}")
        self._sum += on_grid(rows.matrix).sum(axis=0)
        self._file.write(np.ascontiguousarray(rows.matrix, self._type).data)
        self._ids.append(rows.ids)
        self._parts.append(len(rows))

    def centers(self) -> Iterator[pa.RecordBatch]:
        self._file.close()
        mean = self._sum / sum(self._parts)
        best, center_id, center = np.inf, 0, np.empty(0)
        for ids, matrix in self._read():
            difference = on_grid(matrix) - mean
            to_mean = np.einsum("ij,ij->i", difference, difference)
            nearest = int(np.argmin(to_mean))
            if to_mean[nearest] < best:
                best, center_id, center = to_mean[nearest], ids[nearest], matrix[nearest].copy()
        for ids, matrix in self._read():
            yield _batch(ids, np.full(len(ids), center_id), matrix, center)
        self._path.unlink()

    def _read(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with self._path.open("rb") as file:
            for ids in self._ids:
                data = file.read(len(ids) * self._width * self._type.itemsize)
                yield ids, np.frombuffer(data, self._type).reshape(len(ids), self._width)


def on_grid(matrix: np.ndarray) -> np.ndarray:
    """Vectors (R, D) as integers in float64."""
    scaled = matrix.astype(np.float64) * GRID
    return np.rint(scaled, out=scaled)


def distances(matrix: np.ndarray, center: np.ndarray) -> np.ndarray:
    """(R,) float32: how far each row of ``matrix`` (R, D) is from ``center``, (D,) for all or (R, D)."""
    difference = np.subtract(matrix, center, dtype=np.float64)
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", difference, difference)), np.float32)


def _batch(ids: np.ndarray, center_ids: np.ndarray, matrix: np.ndarray, center: np.ndarray) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([ids, center_ids, distances(matrix, center)], schema=CENTERS)
