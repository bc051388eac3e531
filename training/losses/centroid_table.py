"""The table of centroids, of which a rank reads no more than it holds."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.core import parquet
from pipeline.core.errors import ShardError
from training.config import ClusterConfig
from training.losses.centroids import Centroids, share_of
from training.losses.gather import world_size

_BATCH_ROWS = 16_384


@dataclasses.dataclass(frozen=True, kw_only=True)
class CentroidTable:
    """A Parquet file with ``cluster_id, centroid``; the ids are 0 to ``total - 1`` in any order."""

    path: Path
    total: int
    width: int

    @classmethod
    def open(cls, path: Path) -> "CentroidTable":
        """Look at a table without reading it; :class:`ShardError` if it is none of centroids."""
        try:
            with parquet.reading(path):
                file = parquet.open_file(path)
                first = next(file.iter_batches(1, columns=["cluster_id", "centroid"]), None)
        except (OSError, KeyError, ValueError) as error:
            raise ShardError(f"{path}: not a table of cluster_id and centroid: {error}") from error
        if first is None or first.num_columns != 2:
            raise ShardError(f"{path}: not a table of cluster_id and centroid, or an empty one")
        return cls(path=path, total=file.metadata.num_rows, width=len(first["centroid"][0]))

    def read(self, rows: range | None = None, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """``(len(rows), width)`` of these cluster ids in their order; none means all.

        Raises :class:`ShardError` if the ids do not run from 0 to ``total - 1``.
        """
        rows = range(self.total) if rows is None else rows
        result, seen = torch.empty((len(rows), self.width), dtype=dtype), np.zeros(self.total, dtype=bool)
        for batch in self._batches():
            ids = batch["cluster_id"].to_numpy()
            if ids.min() < 0 or ids.max() >= self.total:
                break
            seen[ids] = True
            here = (ids >= rows.start) & (ids < rows.stop)
            if here.any():
                values = batch["centroid"].flatten().to_numpy(zero_copy_only=False).reshape(len(ids), self.width)
                result[torch.from_numpy(ids[here] - rows.start)] = torch.from_numpy(values[here]).to(dtype)
        if not seen.all():
            raise ShardError(f"{self.path}: cluster_id must run from 0 to {self.total - 1} without gaps")
        return result

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with parquet.reading(self.path):
            file = parquet.open_file(self.path, pre_buffer=False)
            yield from file.iter_batches(_BATCH_ROWS, columns=["cluster_id", "centroid"])


def load_centroids(table: CentroidTable, config: ClusterConfig) -> Centroids:
    """What this rank holds of the table: all, or its share where the config divides it; all ranks call it."""
    ranks = world_size() if config.divided else 1
    rows = share_of(table.total, rank=torch.distributed.get_rank() if ranks > 1 else 0, ranks=ranks)
    dtype = torch.float16 if config.storage == "fp16" else torch.float32
    return Centroids(table.read(rows, dtype=dtype), start=rows.start, total=table.total, learnable=config.learnable)
