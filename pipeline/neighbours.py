"""Who is near: all pairs of embeddings within a distance, exactly, reduced to their minimum spanning forest."""

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.config import NeighboursConfig
from pipeline.errors import ConfigError
from pipeline.forest import Edges, concatenate, minimum_spanning_forest, no_edges
from pipeline.progress import Progress
from pipeline.store import Stage, StageResult, read_result
from pipeline.vectors import read_vectors

log = logging.getLogger(__name__)

# Squared distances from a float32 matrix product of unit vectors err by less than this (measured: up to 1e-6 for
# D = 1280); candidates are taken with it as slack and then decided by explicit differences.
_SLACK = 1e-4
_VERIFY_ELEMENTS = 8_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForestReport:
    """``pairs`` within ``max_distance`` were found among ``samples``; ``edges`` of them make up the forest."""

    samples: int
    pairs: int
    edges: int
    max_distance: float
    seconds: float


def near_duplicate_forest(
    embeddings: Path | Sequence[Path], output: Path, *, max_distance: float, block_rows: int = 4096
) -> ForestReport:
    """Write the near-duplicate forest (``id_a < id_b, distance``) of ``image_embedding`` as one Parquet file.

    ``max_distance`` is Euclidean, between unit vectors, in (0, 2). The result holds every pair's verdict from explicit
    float64 differences of the stored vectors, rounded to float32; it does not depend on the order or the division of
    the input. Raises :class:`ConfigError` and :class:`EmbeddingError`.
    """
    started = time.monotonic()
    if not 0 < max_distance < 2:
        raise ConfigError(f"max_distance must lie in (0, 2), the distances of unit vectors; got {max_distance}")
    vectors = read_vectors(embeddings)
    nodes = len(vectors.ids)
    forest, pairs = no_edges(), 0
    with Progress(log, "near_duplicates", total=nodes * (nodes + 1) // 2, unit="pairs") as progress:
        for tile, edges in _tiles(vectors.matrix, max_distance, block_rows):
            pairs += len(edges)
            forest = minimum_spanning_forest(nodes, concatenate([forest, edges]))
            progress.add(tile)
    table = pa.Table.from_arrays(
        [vectors.ids[forest.a], vectors.ids[forest.b], forest.distance],
        # The largest threshold that may be asked of this file.
        schema=schema.NEAR_DUPLICATES.with_metadata({"max_distance": repr(max_distance)}),
    )
    pq.write_table(table, output, compression="zstd")
    return ForestReport(
        samples=nodes,
        pairs=pairs,
        edges=len(forest),
        max_distance=max_distance,
        seconds=round(time.monotonic() - started, 3),
    )


def build_forest(root: Path, config: NeighboursConfig) -> StageResult:
    """Stage ``near_duplicates``: the forest over the teacher's image embeddings."""
    embeddings = read_result(root, "teacher_embeddings")
    stage = Stage(root, "near_duplicates", version=1, config=config.content(), inputs={"forest": embeddings.digest})
    if stage.is_complete():
        return stage.result()
    with stage.running():
        for shard in stage.pending():
            with stage.output(shard) as output:
                report = near_duplicate_forest(
                    embeddings.parquet("teacher_embeddings"),
                    output.path("near_duplicates/forest.parquet"),
                    max_distance=config.max_distance,
                    block_rows=config.block_rows,
                )
                output.rows, output.stats = report.edges, dataclasses.asdict(report)
        return stage.finish()


def _tiles(matrix: np.ndarray, max_distance: float, block_rows: int) -> Iterator[tuple[int, Edges]]:
    """The edges of each tile of the upper triangle of the distance matrix, with the number of its pairs."""
    squared_norms = np.einsum("ij,ij->i", matrix, matrix)
    limit = max_distance**2 + _SLACK
    starts = range(0, len(matrix), block_rows)
    for row in starts:
        x, x_norms = matrix[row : row + block_rows], squared_norms[row : row + block_rows]
        for column in starts[row // block_rows :]:
            y, y_norms = matrix[column : column + block_rows], squared_norms[column : column + block_rows]
            squared = x_norms[:, None] + y_norms[None, :] - 2 * (x @ y.T)
            a, b = np.nonzero(squared <= limit)
            a, b = a + row, b + column
            upper = a < b
            yield squared.size, _verified(matrix, a[upper], b[upper], max_distance)


def _verified(matrix: np.ndarray, a: np.ndarray, b: np.ndarray, max_distance: float) -> Edges:
    """The candidates whose distance, from explicit differences in float64, is at most ``max_distance``."""
    chunk = max(1, _VERIFY_ELEMENTS // matrix.shape[1])
    distance = np.empty(len(a), np.float32)
    for start in range(0, len(a), chunk):
        part = slice(start, start + chunk)
        difference = matrix[a[part]].astype(np.float64) - matrix[b[part]]
        distance[part] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    near = distance <= np.float32(max_distance)
    return Edges(a=a[near].astype(np.int64), b=b[near].astype(np.int64), distance=distance[near])
