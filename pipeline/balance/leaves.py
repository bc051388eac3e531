"""Embeddings in the order of a dendrogram's leaves, in a file: members of any of its groups are a run of rows."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from pipeline.core.errors import EmbeddingError
from pipeline.vectors.read import list_matrix


class Leaves:
    """N rows of width D, one for each different vector.

    ``numbers`` (N,) ascend with the ids: of equally central leaves the one with the smallest stands for a group.
    ``weights`` (N,) say how many images have this vector. ``elected`` (N,) are places in an order that is asked for:
    the first stands for a group, wherever it lies; none means the central one.
    """

    def __init__(
        self,
        path: Path,
        batches: Iterable[pa.RecordBatch],
        *,
        numbers: np.ndarray,
        weights: np.ndarray,
        elected: np.ndarray | None = None,
    ):
        """Writes ``image_embedding`` of all ``batches`` to ``path``. Raises :class:`EmbeddingError` for nulls and
        mixed widths."""
        self.numbers, self.weights, self.elected = numbers, weights, elected
        self.width, self._type = 0, np.dtype(np.float32)
        with path.open("wb") as file:
            for batch in batches:
                matrix = list_matrix(batch.column("image_embedding"), what="image_embedding")
                self.width = self.width or matrix.shape[1]
                if matrix.shape[1] != self.width:
                    raise EmbeddingError(f"embeddings of mixed widths {self.width} and {matrix.shape[1]}")
                self._type = matrix.dtype
                file.write(np.ascontiguousarray(matrix).data)
        self._file = path.open("rb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, start: int, end: int) -> np.ndarray:
        """Rows ``start`` to ``end`` (R, D), in their stored type."""
        bytes_per_row = self.width * self._type.itemsize
        self._file.seek(start * bytes_per_row)
        data = self._file.read((end - start) * bytes_per_row)
        return np.frombuffer(data, self._type).reshape(end - start, self.width)

    def chunks(self, start: int, end: int, *, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """The same, at most ``rows`` at a time, with the place of the first of them."""
        for place in range(start, end, rows):
            yield place, self.read(place, min(place + rows, end))
