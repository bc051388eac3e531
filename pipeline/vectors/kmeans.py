"""k-means by faiss, on the GPUs that it sees or else on the CPU: centroids of a sample, and the nearest one of any row.

Distances are Euclidean. faiss and torch each bring an OpenMP runtime, and both in one process have crashed: where torch
may be loaded, this is called through :func:`pipeline.core.processes.run_alone`.
"""

from typing import Any

import faiss
import numpy as np


def fit_centroids(rows: np.ndarray, clusters: int, *, iterations: int, spherical: bool, seed: int) -> np.ndarray:
    """Centroids (K, D) float32 of ``rows`` (N, D) float32, all of which are used, by Lloyd's iterations.

    ``spherical`` scales centroids to unit length after each iteration. An empty cluster gets half of a large one.
    """
    kmeans = faiss.Kmeans(
        rows.shape[1],
        clusters,
        niter=iterations,
        spherical=spherical,
        seed=seed,
        # Rows are drawn, and their number is judged, by the caller: faiss shall neither draw again nor warn.
        max_points_per_centroid=len(rows),
        min_points_per_centroid=1,
        gpu=faiss.get_num_gpus() > 0,
    )
    kmeans.train(rows)
    return np.asarray(kmeans.centroids)


class NearestCentroids:
    """The nearest of ``centroids`` (K, D) float32, for batches of rows."""

    def __init__(self, centroids: np.ndarray):
        self._centroids = centroids
        self._index: Any = faiss.IndexFlatL2(centroids.shape[1])
        if faiss.get_num_gpus():
            self._index = faiss.index_cpu_to_all_gpus(self._index)
        self._index.add(centroids)

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For ``rows`` (B, D) float32 the number of the nearest centroid, (B,) int32, and the distance to it, (B,)
        float32, which is taken by explicit difference."""
        nearest = self._index.search(rows, 1)[1][:, 0]
        distances = np.linalg.norm(rows - self._centroids[nearest], axis=1)
        return nearest.astype(np.int32), distances.astype(np.float32)
