"""The stage ``clusters`` over roots whose earlier stages are written by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.clusters.config import ClustersConfig
from pipeline.clusters.stage import cluster_images
from pipeline.core import schema
from pipeline.storage.stage import Stage
from tests.oracles import unit, write_embeddings


def _root(root: Path, kept: list[int]) -> np.ndarray:
    """Embeddings of 40 images, of which those ``kept`` have three captions each."""
    rows = unit(np.random.default_rng(0).normal(size=(40, 8))).astype(np.float16)
    earlier = Stage(root, "teacher_embeddings", version=100, config={}, inputs={"a": 0})
    earlier.each(
        lambda out: (
            write_embeddings(out.path("teacher_embeddings/a.parquet"), np.arange(40) * 10, rows, id_column="image_id")
            and None
        )
    )
    pairs = {"sample_id": range(3 * len(kept)), "image_id": np.repeat(kept, 3)}
    earlier = Stage(root, "balance", version=100, config={}, inputs={"balance": kept})
    earlier.each(lambda out: pq.write_table(pa.table(pairs), out.path("balanced_pairs/balance.parquet")))
    return rows


def test_images_are_clustered_once_however_many_captions_they_have(tmp_path: Path) -> None:
    kept = [0, 30, 50, 110, 200, 390]
    rows = _root(tmp_path, kept)
    result = cluster_images(tmp_path, ClustersConfig(clusters=3))
    table = pq.read_table(tmp_path / "cluster_assignments")
    assert table.schema.equals(schema.CLUSTER_ASSIGNMENTS)
    assert table["image_id"].to_pylist() == kept
    assert result.rows == result.stats["samples"] == result.stats["train_samples"] == len(kept)
    centroids = np.stack(pq.read_table(tmp_path / "centroids")["centroid"].to_numpy()).astype(np.float64)
    distances = np.linalg.norm(rows[np.array(kept) // 10][:, None] - centroids[None], axis=2)
    assert table["cluster_id"].to_pylist() == distances.argmin(axis=1).tolist()
    assert cluster_images(tmp_path, ClustersConfig(clusters=3)).computed == 0
