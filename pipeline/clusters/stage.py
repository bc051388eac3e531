"""Stage ``clusters``: k-means over a root's kept images, in a process of its own."""

import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from pipeline.clusters.config import ClustersConfig
from pipeline.clusters.kmeans_clusters import ClusterReport, cluster_embeddings
from pipeline.core.processes import die_with_parent
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Output, Stage


def cluster_images(root: Path, config: ClustersConfig) -> StageResult:
    """Stage ``clusters``: ``centroids`` and ``cluster_assignments`` of the kept images."""
    embeddings = read_result(root, "teacher_embeddings")
    balance = read_result(root, "balance")
    inputs = {"clusters": [embeddings.digest, balance.digest]}
    stage = Stage(root, "clusters", version=1, config=config.content(), inputs=inputs)

    def write(output: Output) -> None:
        folder = root / ".tmp" / "clusters" / "tables"
        report = _in_own_process(
            embeddings.parquet("teacher_embeddings"), folder, balance.parquet("balanced_pairs")[0], config
        )
        for table in ("centroids", "cluster_assignments"):
            (folder / f"{table}.parquet").replace(output.path(f"{table}/{table}.parquet"))
        output.rows, output.stats = report.samples, dataclasses.asdict(report)

    return stage.each(write)


def _in_own_process(embeddings: list[Path], output: Path, keep: Path, config: ClustersConfig) -> ClusterReport:
    """faiss and torch each bring an OpenMP runtime; both in one process have crashed, so faiss gets its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=die_with_parent) as pool:
        options = config.content()
        return pool.submit(cluster_embeddings, embeddings, output, keep=keep, **options).result()
