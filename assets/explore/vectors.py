"""Embeddings in a file of their own, any row of which can be read: Parquet would decode thousands for one."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.balance.centers import distances, on_grid
from pipeline.core.errors import EmbeddingError
from pipeline.vectors.read import checked_batches, inspect

_ROWS = 8192
# Beyond those asked for, candidates that a product in float32 may have misplaced.
_MORE = 64


class VectorFile:
    """N unit vectors of width D in their stored type; thread-safe, since every read names its position."""

    def __init__(self, embeddings: Sequence[Path], path: Path):
        """Copies ``image_embedding`` of all files to ``path``. Raises :class:`EmbeddingError` for what is no such."""
        ids, kinds = list[np.ndarray](), set[tuple[int, np.dtype]]()
        with path.open("wb") as file:
            for part in inspect(embeddings, id_column="image_id"):
                for batch_ids, matrix in checked_batches(part, id_column="image_id"):
                    kinds.add((matrix.shape[1], matrix.dtype))
                    ids.append(batch_ids.copy())
                    file.write(np.ascontiguousarray(matrix).data)
        if len(kinds) != 1:
            raise EmbeddingError(f"embeddings of {len(kinds)} widths or types, of which there must be one")
        ((self.width, self._type),) = kinds
        every = np.concatenate(ids)
        self._row = np.argsort(every, kind="stable")
        self.ids = every[self._row]
        self._in_order = every
        self._file = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return len(self.ids)

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """``ids`` (R,) and vectors (R, D) of all rows, in the order of the tables, some at a time."""
        size = self.width * self._type.itemsize
        for start in range(0, len(self.ids), _ROWS):
            rows = min(_ROWS, len(self.ids) - start)
            part = np.frombuffer(os.pread(self._file, rows * size, start * size), self._type)
            yield self._in_order[start : start + rows], part.reshape(rows, -1)

    def of(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the images that have one: their ids (R,) ascending, and their vectors (R, D)."""
        wanted = np.unique(images)
        found = np.searchsorted(self.ids, wanted)
        there = (found < len(self.ids)) & (self.ids[np.minimum(found, len(self.ids) - 1)] == wanted)
        size = self.width * self._type.itemsize
        data = b"".join(os.pread(self._file, size, int(row) * size) for row in self._row[found[there]])
        return wanted[there], np.frombuffer(data, self._type).reshape(-1, self.width)

    def center(self, images: np.ndarray) -> tuple[np.ndarray, int, np.ndarray] | None:
        """``ids`` (R,) ascending, the one that the balance would keep of them by its default rule, and the distance of
        each to it; none if no image has a vector."""
        ids, matrix = self.of(images)
        if not len(ids):
            return None
        scaled = on_grid(matrix)
        scaled -= scaled.sum(axis=0) / len(scaled)
        center = int(np.argmin(np.einsum("ij,ij->i", scaled, scaled)))
        return ids, int(ids[center]), distances(matrix, matrix[center])

    def nearest(self, image: int, count: int) -> list[tuple[int, float]]:
        """The images nearest to one, itself left out, with their distances; a pass over all vectors."""
        ids, matrix = self.of(np.array([image]))
        if not len(ids):
            return []
        found = self._candidates(matrix[0].astype(np.float32), count + 1 + _MORE)
        others, vectors = self.of(found[found != image])
        far = distances(vectors, matrix[0])
        order = np.lexsort((others, far))[:count]
        return [(int(others[number]), float(far[number])) for number in order]

    def _candidates(self, vector: np.ndarray, count: int) -> np.ndarray:
        best, ids = np.empty(0, np.float32), np.empty(0, np.int64)
        for some, part in self.chunks():
            best, ids = np.concatenate([best, part.astype(np.float32) @ vector]), np.concatenate([ids, some])
            if len(best) > count:
                kept = np.argpartition(-best, count - 1)[:count]
                best, ids = best[kept], ids[kept]
        return ids
