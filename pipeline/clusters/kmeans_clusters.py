"""Clusters of the kept images: faiss k-means on the teacher's image embeddings, one nearest-center label per image."""

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core import parquet, schema
from pipeline.core.errors import ConfigError, EmbeddingError
from pipeline.vectors.read import EmbeddingFile, checked_batches, inspect, list_matrix, read_ids, unique_ids

log = logging.getLogger(__name__)

# Products of rows and centroids that are held at a time.
_PRODUCT_ELEMENTS = 1 << 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterReport:
    """``inertia``: mean squared distance to the nearest centroid; ``train_samples``: what k-means was fitted on."""

    samples: int
    clusters: int
    empty_clusters: int
    smallest_cluster: int
    largest_cluster: int
    inertia: float
    train_samples: int
    seconds: float


def cluster_embeddings(
    embeddings: Path | Sequence[Path],
    output: Path,
    *,
    clusters: int,
    iterations: int = 25,
    spherical: bool = True,
    seed: int = 0,
    train_samples: int | None = None,
    keep: Path | None = None,
    id_column: str = "sample_id",
) -> ClusterReport:
    """Write ``centroids.parquet`` and ``cluster_assignments.parquet`` into the folder ``output``.

    Assignments name the ids as the embeddings do. Distances are Euclidean. The result does not depend on the order or
    division of the input. Memory holds the training sample in float32, and 24 bytes a row.

    Args:
        embeddings: Parquet files, or a folder of them, with ``id_column`` and ``image_embedding``.
        output: folder, made if need be.
        clusters: number of centroids.
        iterations: Lloyd iterations.
        spherical: scale centroids to unit length after each iteration.
        seed: seed of the first centroids and of the training sample.
        train_samples: rows that k-means is fitted on, drawn with ``seed``; none means all (faiss by itself would stop
            at 256 a cluster).
        keep: Parquet file whose ``id_column`` names the rows to cluster, in any order and number; none means all.
        id_column: the ids' column, integers of 64 bits.

    Returns:
        Counts, inertia and seconds.

    Raises:
        ConfigError: if there are fewer rows than clusters.
        EmbeddingError: for malformed embeddings.
    """
    from pipeline.vectors.kmeans import fit_centroids

    started = time.monotonic()
    files = inspect(embeddings, id_column=id_column)
    ids = unique_ids(files, id_column=id_column)
    if keep is not None:
        ids = ids[np.isin(ids, read_ids(keep, id_column))]
    chosen = _training_sample(ids, train_samples, seed)
    if clusters < 1 or not len(chosen):
        raise ConfigError(f"{clusters} clusters asked of {len(chosen)} images; both have to be 1 at least")
    if clusters > len(chosen):
        raise ConfigError(f"{clusters} clusters asked of {len(chosen)} images; k-means needs as many at least")
    sample = _read_rows(files, chosen, id_column)
    centroids = fit_centroids(sample, clusters, iterations=iterations, spherical=spherical, seed=seed)
    labels, distances = _assign(files, ids, centroids, id_column)
    assignments = pa.table({id_column: ids, "cluster_id": labels, "distance": distances})
    _write(output, assignments, centroids)
    sizes = np.bincount(labels, minlength=clusters)
    return ClusterReport(
        samples=len(ids),
        clusters=clusters,
        empty_clusters=int((sizes == 0).sum()),
        smallest_cluster=int(sizes.min()),
        largest_cluster=int(sizes.max()),
        inertia=float((distances.astype(np.float64) ** 2).mean()),
        train_samples=len(sample),
        seconds=round(time.monotonic() - started, 3),
    )


def _training_sample(ids: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    if count is None or count >= len(ids):
        return ids
    chosen = np.random.default_rng(seed).choice(len(ids), count, replace=False)
    return ids[np.sort(chosen)]


def _places(ids: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which ``ids`` (B,) are among ``wanted`` (N,), which ascends, and the place there of each that is."""
    places = np.searchsorted(wanted, ids)
    found = wanted[np.minimum(places, len(wanted) - 1)] == ids
    return found, places[found]


def _read_rows(files: Sequence[EmbeddingFile], ids: np.ndarray, id_column: str) -> np.ndarray:
    """The embeddings of ``ids`` (N,), which ascend, as (N, D) float32."""
    matrix = np.empty((0, 0), np.float32)
    for file in files:
        for batch_ids, batch in checked_batches(file, id_column=id_column):
            if not matrix.size and batch.size:
                matrix = np.empty((len(ids), batch.shape[1]), np.float32)
            if batch.size and batch.shape[1] != matrix.shape[1]:
                widths = sorted({batch.shape[1], matrix.shape[1]})
                raise EmbeddingError(f"{file.path}: embeddings of mixed widths {widths}")
            found, places = _places(batch_ids, ids)
            matrix[places] = batch[found]
    return matrix


def _assign(
    files: Sequence[EmbeddingFile], ids: np.ndarray, centroids: np.ndarray, id_column: str
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centroid (N,) int32 of ``ids``, and the Euclidean distance to it (N,) float32."""
    from pipeline.vectors.kmeans import NearestCentroids

    nearest = NearestCentroids(centroids)
    labels, distances = np.empty(len(ids), np.int32), np.empty(len(ids), np.float32)
    for file in files:
        for batch_ids, batch in checked_batches(file, id_column=id_column):
            found, places = _places(batch_ids, ids)
            if len(places):
                labels[places], distances[places] = nearest.of(batch[found].astype(np.float32))
    return labels, distances


def _write(output: Path, assignments: pa.Table, centroids: np.ndarray) -> None:
    output.mkdir(parents=True, exist_ok=True)
    table_schema = schema.centroids(centroids.shape[1])
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(centroids.reshape(-1)), type=table_schema.field("centroid").type
    )
    numbers = pa.array(np.arange(len(centroids), dtype=np.int32))
    parquet.write_table(
        pa.Table.from_arrays([numbers, vectors], schema=table_schema),
        output / "centroids.parquet",
        row_group_size=schema.EMBEDDING_ROW_GROUP,
    )
    id_field = pa.field(assignments.column_names[0], pa.int64(), nullable=False)
    assignments = assignments.cast(schema.CLUSTER_ASSIGNMENTS.set(0, id_field))
    parquet.write_table(assignments, output / "cluster_assignments.parquet", compression="zstd")


def cluster_sizes(assignments: Path, clusters: int) -> np.ndarray:
    """Images per cluster (clusters,), empty ones included."""
    counts = pc.value_counts(parquet.read_table(assignments, columns=["cluster_id"])["cluster_id"])
    sizes = np.zeros(clusters, np.int64)
    sizes[counts.field("values").to_numpy()] = counts.field("counts").to_numpy()
    return sizes


def nearest_centroids(embeddings: Sequence[Path], centroids: Path, *, id_column: str = "sample_id") -> pa.Table:
    """``<id_column>, cluster_id`` of every embedding, whether it was clustered or not, ordered by id."""
    matrix = list_matrix(parquet.read_table(centroids)["centroid"], what=str(centroids))
    # Not by faiss: this is called where torch is. The nearest has the largest of x . c - |c|^2 / 2.
    half_norms = np.einsum("ij,ij->i", matrix, matrix) / 2
    rows = max(_PRODUCT_ELEMENTS // len(matrix), 1)
    ids, labels = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for file in inspect(embeddings, id_column=id_column):
        for batch_ids, batch in checked_batches(file, id_column=id_column):
            ids.append(batch_ids)
            pieces = [batch[start : start + rows].astype(np.float32) for start in range(0, len(batch), rows)]
            labels += [(piece @ matrix.T - half_norms).argmax(axis=1) for piece in pieces]
    table = pa.table({id_column: np.concatenate(ids), "cluster_id": np.concatenate(labels)})
    return table.sort_by(id_column)
