"""Three training sets over the same tars: all pairs, the balanced ones, and as many random ones.

The tars hold every pair with its teacher embeddings and the cluster whose centroid is nearest. A training set is a
folder of indexes that name some of their samples: nothing is stored twice.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.clusters.kmeans_clusters import nearest_centroids
from pipeline.core import query
from pipeline.core.query import QueryConfig
from pipeline.core.tars import index_tar, write_tar
from pipeline.shards.config import ShardsConfig
from pipeline.shards.samples import training_samples
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Stage

FOLDER = "ablation_data"
ALL, RANDOM, BALANCED = "all", "random", "balanced"


def write_ablation_data(root: Path, config: ShardsConfig, query_config: QueryConfig) -> StageResult:
    """Stage ``ablation_data``: tars, and ``<set>/<shard>.parquet`` for each of the three sets.

    All pairs are those that the balance was given. Their captions and embeddings pass through memory shard by shard,
    their image embeddings once as a whole: this is for corpora of up to a few million pairs.
    """
    results = {name: read_result(root, name) for name in ("images", "teacher_embeddings", "balance", "clusters")}
    digests = [result.digest for result in results.values()]
    stage = Stage(root, FOLDER, version=1, config=config.content(), inputs={"data": digests})
    if stage.is_complete():
        return stage.result()
    groups = pa.concat_tables(
        pq.read_table(path, columns=["sample_id", "kept"]) for path in results["balance"].parquet("balance_groups")
    )
    every = groups["sample_id"].to_numpy()
    kept = every[groups["kept"].to_numpy(zero_copy_only=False)]
    members = {ALL: every, BALANCED: kept, RANDOM: random_ids(every, len(kept), seed=config.seed)}
    with stage.running(), results["images"].borrowed(".tar"), stage.output("data") as output:
        labels = output.path(f"{FOLDER}/labels.parquet")
        embeddings = results["teacher_embeddings"].parquet("teacher_embeddings")
        nearest = nearest_centroids(embeddings, results["clusters"].parquet("centroids")[0])
        pq.write_table(nearest.filter(np.isin(nearest["sample_id"].to_numpy(), every)), labels)
        parameters = {
            "index": query.files(results["images"].parquet("index")),
            "pairs": query.files(results["images"].parquet("images")),
            "assignments": query.files([labels]),
            "embeddings": query.files(embeddings),
            "seed": config.seed,
        }
        with query.connect(query_config, scratch=root / ".tmp" / f"{FOLDER}-query") as connection:
            rows = query.stream(connection, query.sql("pipeline.shards", "training_order"), parameters)
            for number, table in enumerate(query.cut(rows, config.samples_per_shard)):
                tar = output.path(f"{FOLDER}/{number:05d}.tar")
                output.rows += write_tar(tar, training_samples(root, table, output.rows))
                index = index_tar(tar)
                for name, ids in members.items():
                    chosen = index.filter(np.isin(index["sample_id"].to_numpy(), ids))
                    pq.write_table(chosen, output.path(f"{FOLDER}/{name}/{number:05d}.parquet"))
        output.stats = {name: len(ids) for name, ids in members.items()}
    return stage.finish()


def random_ids(ids: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """``count`` of the ids, those with the smallest hashes (SplitMix64), so that order of input does not matter."""
    with np.errstate(over="ignore"):
        value = ids.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ids[np.argsort(value ^ (value >> np.uint64(31)), kind="stable")[:count]]
