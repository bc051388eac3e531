"""Slow, obvious answers to compare with: float64 differences of every pair, and Kruskal's algorithm by the book."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.spatial.distance import pdist


def brute_force_forest(ids: np.ndarray, matrix: np.ndarray, max_distance: float) -> list[tuple[int, int, float]]:
    """All edges ``(id_a, id_b, distance)`` of the minimum spanning forest, ordered by (distance, id_a, id_b)."""
    distance = pdist(matrix.astype(np.float64)).astype(np.float32)
    a, b = np.triu_indices(len(ids), 1)
    near = distance <= np.float32(max_distance)
    low, high = np.minimum(ids[a], ids[b])[near], np.maximum(ids[a], ids[b])[near]
    return kruskal(zip(low.tolist(), high.tolist(), distance[near].tolist()))


def kruskal(edges: Sequence[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    parent: dict[int, int] = {}

    def find(node: int) -> int:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    forest = []
    for a, b, distance in sorted(edges, key=lambda edge: (edge[2], edge[0], edge[1])):
        root_a, root_b = find(a), find(b)
        if root_a != root_b:
            parent[root_a] = root_b
            forest.append((a, b, distance))
    return forest


def read_forest(path: Path) -> list[tuple[int, int, float]]:
    table = pq.read_table(path)
    return list(zip(*(table[name].to_pylist() for name in ("id_a", "id_b", "distance"))))


def write_embeddings(
    path: Path,
    ids: np.ndarray,
    matrix: np.ndarray,
    *,
    fixed: bool = True,
    id_column: str = "sample_id",
    **extra: object,
) -> Path:
    """One Parquet file of ``<id_column>, image_embedding``, in the matrix's float type."""
    values = pa.array(np.ascontiguousarray(matrix).reshape(-1))
    if fixed:
        vectors = pa.FixedSizeListArray.from_arrays(values, matrix.shape[1])
    else:
        vectors = pa.ListArray.from_arrays(np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1], values)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({id_column: pa.array(ids, pa.int64()), "image_embedding": vectors, **extra}), path)
    return path


def unit(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
