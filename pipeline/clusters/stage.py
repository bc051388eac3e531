"""Stage ``clusters``: k-means over a root's kept images, in a process of its own."""

import dataclasses
from pathlib import Path

from pipeline.clusters.config import ClustersConfig
from pipeline.clusters.kmeans_clusters import cluster_embeddings
from pipeline.core.processes import run_alone
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Output, Stage


def cluster_images(root: Path, config: ClustersConfig) -> StageResult:
    """Stage ``clusters``: ``centroids`` and ``cluster_assignments`` of the kept images."""
    embeddings = read_result(root, "teacher_embeddings")
    balance = read_result(root, "balance")
    inputs = {"clusters": [embeddings.digest, balance.digest]}
    # Version 2: of image ids.
    stage = Stage(root, "clusters", version=2, config=config.content(), inputs=inputs)

    def write(output: Output) -> None:
        folder = root / ".tmp" / "clusters" / "tables"
        kept = balance.parquet("balanced_pairs")[0]
        paths = embeddings.parquet("teacher_embeddings")
        # An image has a row there for each of its captions.
        report = run_alone(cluster_embeddings, paths, folder, keep=kept, id_column="image_id", **config.content())
        for table in ("centroids", "cluster_assignments"):
            (folder / f"{table}.parquet").replace(output.path(f"{table}/{table}.parquet"))
        output.rows, output.stats = report.samples, dataclasses.asdict(report)

    return stage.each(write)
