import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.clusters.kmeans_clusters import cluster_embeddings, cluster_sizes, nearest_centroids
from pipeline.core.errors import ConfigError, EmbeddingError


def blobs(path: Path, rng: np.random.Generator, order: np.ndarray | None = None) -> tuple[Path, np.ndarray]:
    """Eight well separated groups of unit vectors, 50 each; ``sample_id`` // 50 is the group."""
    centers = np.linalg.qr(rng.normal(size=(16, 16)))[0][:8]
    matrix = np.repeat(centers, 50, axis=0) + 0.02 * rng.normal(size=(400, 16))
    matrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
    order = np.arange(400) if order is None else order
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix[order].reshape(-1)), 16)
    pq.write_table(pa.table({"sample_id": order, "image_embedding": vectors}), path)
    return path, matrix


def test_labels_are_nearest_centroids_and_find_the_groups(tmp_path: Path) -> None:
    path, matrix = blobs(tmp_path / "e.parquet", np.random.default_rng(0))
    report = cluster_embeddings(path, tmp_path, clusters=8, seed=3)
    centroids = np.stack(pq.read_table(tmp_path / "centroids.parquet")["centroid"].to_numpy())
    rows = pq.read_table(tmp_path / "cluster_assignments.parquet").to_pylist()
    distance = np.linalg.norm(matrix[:, None].astype(np.float64) - centroids[None], axis=2)
    assert [row["cluster_id"] for row in rows] == distance.argmin(axis=1).tolist()
    assert np.allclose([row["distance"] for row in rows], distance.min(axis=1), atol=1e-5)
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    assert report.empty_clusters == 0
    assert report.train_samples == 400
    assert np.isclose(report.inertia, (distance.min(axis=1) ** 2).mean(), rtol=1e-4)


def test_inertia_is_close_to_scikit_learn(tmp_path: Path) -> None:
    from sklearn.cluster import KMeans

    path, matrix = blobs(tmp_path / "e.parquet", np.random.default_rng(1))
    report = cluster_embeddings(path, tmp_path, clusters=20, spherical=False, iterations=50)
    reference = KMeans(20, n_init=1, max_iter=50, random_state=0).fit(matrix).inertia_ / len(matrix)
    assert report.inertia < 1.15 * reference


def test_order_does_not_matter_and_keep_selects(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    path, _ = blobs(tmp_path / "a.parquet", np.random.default_rng(0))
    shuffled, _ = blobs(tmp_path / "b.parquet", np.random.default_rng(0), rng.permutation(400))
    keep = tmp_path / "keep.parquet"
    pq.write_table(pa.table({"sample_id": np.arange(0, 400, 2)}), keep)
    for name, file in (("a", path), ("b", shuffled)):
        cluster_embeddings(file, tmp_path / name, clusters=8, keep=keep)
    tables = [(tmp_path / name / "cluster_assignments.parquet").read_bytes() for name in "ab"]
    assert tables[0] == tables[1]
    ids = pq.read_table(tmp_path / "a" / "cluster_assignments.parquet")["sample_id"].to_pylist()
    assert ids == list(range(0, 400, 2))


def test_a_sample_is_the_same_whatever_the_files(tmp_path: Path) -> None:
    """A sample is read from wherever its rows lie; all rows are labeled, by brute force in float64 the nearest."""
    path, matrix = blobs(tmp_path / "e.parquet", np.random.default_rng(0))
    table = pq.read_table(path).take(np.random.default_rng(1).permutation(400))
    (tmp_path / "parts").mkdir()
    for number in range(3):
        pq.write_table(table.slice(number * 150, 150), tmp_path / f"parts/{number}.parquet")
    for name, files in (("a", path), ("b", tmp_path / "parts")):
        cluster_embeddings(files, tmp_path / name, clusters=8, train_samples=100, seed=5)
    tables = [pq.read_table(tmp_path / name / "cluster_assignments.parquet") for name in "ab"]
    assert tables[0].equals(tables[1])
    centroids = np.stack(pq.read_table(tmp_path / "a/centroids.parquet")["centroid"].to_numpy()).astype(np.float64)
    distance = np.linalg.norm(matrix[:, None] - centroids[None], axis=2)
    assert tables[0]["cluster_id"].to_pylist() == distance.argmin(axis=1).tolist()
    everywhere = nearest_centroids(
        [tmp_path / f"parts/{number}.parquet" for number in range(3)], tmp_path / "a/centroids.parquet"
    )
    assert everywhere["sample_id"].to_pylist() == list(range(400))
    assert everywhere["cluster_id"].to_pylist() == distance.argmin(axis=1).tolist()


def test_the_nearest_centroid_is_the_nearest_whatever_the_centroids_lengths(tmp_path: Path) -> None:
    path, matrix = blobs(tmp_path / "e.parquet", np.random.default_rng(0))
    cluster_embeddings(path, tmp_path, clusters=5, spherical=False)
    centroids = np.stack(pq.read_table(tmp_path / "centroids.parquet")["centroid"].to_numpy()).astype(np.float64)
    assert np.linalg.norm(centroids, axis=1).min() < 0.8
    distance = np.linalg.norm(matrix[:, None] - centroids[None], axis=2)
    found = nearest_centroids([path], tmp_path / "centroids.parquet")
    assert found["cluster_id"].to_pylist() == distance.argmin(axis=1).tolist()


def test_only_the_training_sample_is_held(tmp_path: Path) -> None:
    """100,000 rows are 26 MB in float32; batches, labels of all and a sample of 500 are about 8 MB."""
    rng = np.random.default_rng(0)
    for number in range(10):
        matrix = rng.normal(size=(10_000, 64)).astype(np.float32)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), 64)
        ids = np.arange(number * 10_000, (number + 1) * 10_000)
        path = tmp_path / f"e/{number}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"sample_id": ids, "image_embedding": vectors}), path)
    cluster_embeddings(tmp_path / "e", tmp_path / "warm", clusters=10, train_samples=500, iterations=2)
    tracemalloc.start()
    try:
        cluster_embeddings(tmp_path / "e", tmp_path / "out", clusters=10, train_samples=500, iterations=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 13e6


def test_embeddings_of_mixed_widths_or_repeated_ids_are_refused(tmp_path: Path) -> None:
    path, _ = blobs(tmp_path / "a.parquet", np.random.default_rng(0))
    with pytest.raises(EmbeddingError, match="400 values of sample_id stand more than once"):
        cluster_embeddings([path, path], tmp_path, clusters=8)
    lists = pa.array([[1.0, 0.0]] * 3, pa.list_(pa.float32()))
    pq.write_table(pa.table({"sample_id": [1000, 1001, 1002], "image_embedding": lists}), tmp_path / "b.parquet")
    with pytest.raises(EmbeddingError, match=r"b\.parquet: embeddings of mixed widths \[2, 16\]"):
        cluster_embeddings([path, tmp_path / "b.parquet"], tmp_path, clusters=8)


def test_ids_keep_their_name(tmp_path: Path) -> None:
    path, _ = blobs(tmp_path / "e.parquet", np.random.default_rng(0))
    cluster_embeddings(path, tmp_path / "a", clusters=8)
    table = pq.read_table(path).rename_columns({"sample_id": "image_id"})
    pq.write_table(table, path)
    cluster_embeddings(path, tmp_path / "b", clusters=8, id_column="image_id")
    first, second = (pq.read_table(tmp_path / name / "cluster_assignments.parquet") for name in "ab")
    assert second.equals(first.rename_columns({"sample_id": "image_id"}))
    found = nearest_centroids([path], tmp_path / "b/centroids.parquet", id_column="image_id")
    assert found.equals(second.select(["image_id", "cluster_id"]).cast(found.schema))
    keep = tmp_path / "keep.parquet"
    pq.write_table(pa.table({"sample_id": [1]}), keep)
    with pytest.raises(EmbeddingError, match=r"keep.parquet: no column \['image_id'\]; it has \['sample_id'\]"):
        cluster_embeddings(path, tmp_path / "c", clusters=8, keep=keep, id_column="image_id")


def test_more_clusters_than_images_is_refused(tmp_path: Path) -> None:
    path, _ = blobs(tmp_path / "e.parquet", np.random.default_rng(0))
    with pytest.raises(ConfigError, match="0 clusters asked of 400 images; both have to be 1"):
        cluster_embeddings(path, tmp_path, clusters=0)
    with pytest.raises(ConfigError, match="401 clusters asked of 400 images"):
        cluster_embeddings(path, tmp_path, clusters=401)
    with pytest.raises(ConfigError, match="30 clusters asked of 20 images"):
        cluster_embeddings(path, tmp_path, clusters=30, train_samples=20)
    assert not (tmp_path / "centroids.parquet").exists()


def test_cluster_sizes_count_empty_ones(tmp_path: Path) -> None:
    path, _ = blobs(tmp_path / "e.parquet", np.random.default_rng(0))
    cluster_embeddings(path, tmp_path, clusters=8)
    sizes = cluster_sizes(tmp_path / "cluster_assignments.parquet", 10)
    assert sizes.sum() == 400
    assert sizes[8:].tolist() == [0, 0]
