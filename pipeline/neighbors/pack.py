"""Embeddings packed for the pair search: one memory-mapped matrix, rows in the order in which they were read.

Parquet is read once, checked and written out, front to back, as a flat file that tiles, in whatever process, map into
memory. Beside it stands each row's *number*, the place of its id among all ids, so comparing numbers is comparing ids.
Rows that are equal to the last bit are found here: of each set only that of the smallest id takes part in the search,
the others hang on it by edges of distance zero, which is what the minimum spanning forest would make of them. So one
image repeated ten thousand times costs nothing.
"""

import dataclasses
import mmap
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import EmbeddingError
from pipeline.graph.forest import Edges, no_edges
from pipeline.vectors.read import EmbeddingFile, checked_batches, inspect, read_ids

if TYPE_CHECKING:
    from torch import Tensor

_COMPARE_ROWS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """Embedding files whose rows are compared with each other, or with those of another side."""

    paths: tuple[Path, ...]
    column: str = "image_embedding"
    id_column: str = "sample_id"

    def inspect(self) -> list[EmbeddingFile]:
        return inspect(self.paths, column=self.column, id_column=self.id_column)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
    """``ids`` (N,) int64 ascending; ``matrix`` (N, D) float16 or float32, row i belonging to ``ids[numbers[i]]``;
    ``distinct`` (M,) int64 rows that differ from each other, ascending; ``repeats`` edges of length zero, between
    numbers, to all other rows.

    Of two sides the second's rows, ids and numbers follow those of the ``first``, which has so many rows; ids ascend
    within each, and all rows count as distinct.
    """

    ids: np.ndarray
    matrix: np.ndarray
    numbers: np.ndarray
    distinct: np.ndarray
    repeats: Edges
    first: int | None


def pack(sides: Sequence[Side], folder: Path) -> Packed:
    """Check the embeddings of one side or two and write ``vectors.bin`` into ``folder``.

    Float64 is stored as float32; mixed float types take the widest. Raises :class:`EmbeddingError` naming file and
    number of rows for anything that :func:`pipeline.vectors.read.checked_batches` refuses, and for ids that stand twice
    on a side.
    """
    files = [side.inspect() for side in sides]
    ordered = []
    for side, own in zip(sides, files):
        if not sum(file.rows for file in own):
            raise EmbeddingError(f"no embeddings: {len(own)} files without a row")
        ordered.append(_order(own, side.id_column))
    starts = np.cumsum([0, *(len(ids) for ids, _ in ordered)])
    half = all(file.type == "halffloat" for own in files for file in own)
    writer = _Writer(folder / "vectors.bin", int(starts[-1]), np.dtype(np.float16 if half else np.float32))
    for side, own in zip(sides, files):
        for file in own:
            for _, batch in checked_batches(file, column=side.column, id_column=side.id_column):
                writer.write(batch, file.path)
    matrix, hashes = writer.close()
    numbers = np.concatenate([places + start for (_, places), start in zip(ordered, starts)])
    first = int(starts[1]) if len(sides) > 1 else None
    distinct, repeats = _collapse(matrix, hashes, numbers) if first is None else (np.arange(len(matrix)), no_edges())
    ids = np.concatenate([ids for ids, _ in ordered])
    return Packed(ids=ids, matrix=matrix, numbers=numbers, distinct=distinct, repeats=repeats, first=first)


def release(matrix: np.ndarray) -> None:
    """Let go of the pages of a memory-mapped matrix; they are read again, from the page cache, when needed."""
    mapped = getattr(matrix, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def mapped(vectors: np.ndarray) -> "Tensor":
    """A tensor over the same memory."""
    import torch

    with warnings.catch_warnings():
        # torch warns that the mapped file cannot be written; it is only read.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(vectors)


def _order(files: list[EmbeddingFile], id_column: str) -> tuple[np.ndarray, np.ndarray]:
    """All ids, ascending, and for each row in the order of the files its place among them."""
    ids = np.concatenate([read_ids(file.path, id_column) for file in files])
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    if len(again):
        starts = np.cumsum([0] + [file.rows for file in files])
        first = order[again[0]]
        where = files[int(np.searchsorted(starts, first, side="right")) - 1].path
        raise EmbeddingError(
            f"{len(again)} rows repeat a {id_column} that stands before, e.g. {ordered[again[0]]} in {where}; "
            f"every {id_column} must be there once"
        )
    places = np.empty(len(ids), np.int64)
    places[order] = np.arange(len(ids))
    return ordered, places


class _Writer:
    """Writes rows one after another and hashes them on the way."""

    def __init__(self, path: Path, rows: int, dtype: np.dtype):
        self._path, self._rows, self._dtype = path, rows, dtype
        self._file, self._width = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), 0
        self._hashes, self._count = np.empty(rows, np.uint64), 0

    def write(self, batch: np.ndarray, source: Path) -> None:
        if not len(batch):
            return
        if not self._width:
            self._width = batch.shape[1]
            # A full disk is noticed here, not in the middle.
            os.posix_fallocate(self._file, 0, self._rows * self._width * self._dtype.itemsize)
        if batch.shape[1] != self._width:
            raise EmbeddingError(f"{source}: embeddings of width {batch.shape[1]}, those before are {self._width} wide")
        stored = _without_negative_zeros(np.ascontiguousarray(batch, self._dtype))
        self._hashes[self._count : self._count + len(stored)] = _row_hashes(stored)
        self._count += len(stored)
        _write_all(self._file, stored)

    def close(self) -> tuple[np.ndarray, np.ndarray]:
        os.close(self._file)
        return np.memmap(self._path, dtype=self._dtype, mode="r", shape=(self._rows, self._width)), self._hashes


def _write_all(file: int, rows: np.ndarray) -> None:
    data = rows.reshape(-1).view(np.uint8).data
    while data:
        data = data[os.write(file, data) :]


def _without_negative_zeros(rows: np.ndarray) -> np.ndarray:
    """-0.0 becomes 0.0, so that rows at distance zero have the same bytes."""
    bits = rows.view(f"u{rows.itemsize}")
    negative = bits == 1 << (8 * rows.itemsize - 1)
    return np.where(negative, rows.dtype.type(0), rows) if negative.any() else rows


def _row_hashes(rows: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each row's bytes: a multilinear one, whose multipliers are fixed. Equality is checked later."""
    width = rows.shape[1] * rows.itemsize
    padded = rows.view(np.uint8).reshape(len(rows), width)
    if width % 8:
        padded = np.pad(padded, ((0, 0), (0, 8 - width % 8)))
    words = np.ascontiguousarray(padded).view(np.uint64)
    multipliers = np.random.default_rng(0).integers(1, 2**63, words.shape[1], dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    return np.einsum("ij,j->i", words ^ (words >> np.uint64(32)), multipliers)


def _collapse(matrix: np.ndarray, hashes: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, Edges]:
    """Rows that stand for themselves, and a zero edge from the smallest id of each set of equal rows to the others."""
    order = np.lexsort((numbers, hashes))
    ordered = hashes[order]
    same = np.concatenate([[False], ordered[1:] == ordered[:-1]])
    starts = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    member, first = order[same], order[starts[same]]
    equal = np.empty(len(member), bool)
    for start in range(0, len(member), _COMPARE_ROWS):
        part = slice(start, start + _COMPARE_ROWS)
        # Unequal rows of one hash stay in the search, which finds their true distance: nothing is lost.
        equal[part] = (matrix[member[part]] == matrix[first[part]]).all(axis=1)
    member, first = member[equal], first[equal]
    distinct = np.setdiff1d(np.arange(len(matrix)), member, assume_unique=True)
    zeros = np.zeros(len(member), np.float32)
    return distinct, Edges(a=numbers[first], b=numbers[member], distance=zeros)
