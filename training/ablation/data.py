"""Three training sets over the same tars: all pairs, the balanced ones, and as many random ones.

The tars hold every pair with its teacher embeddings and the cluster whose centroid is nearest. A training set is a
folder of indexes that name some of their samples: nothing is stored twice.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.balance.rules.random_subset import kept_by_chance
from pipeline.balance.unused import unused_pairs
from pipeline.clusters.kmeans_clusters import nearest_centroids
from pipeline.core import parquet, query
from pipeline.core.query import QueryConfig
from pipeline.core.tars import index_tar, write_tar
from pipeline.shards.config import ShardsConfig
from pipeline.shards.samples import training_samples
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Output, Stage
from training.ablation.grid import ALL, BALANCED, RANDOM

FOLDER = "ablation_data"


def write_ablation_data(root: Path, config: ShardsConfig, query_config: QueryConfig) -> StageResult:
    """Stage ``ablation_data``: tars, and ``<set>/<shard>.parquet`` for each of the three sets.

    All pairs are those that the balance was given. Their captions and embeddings pass through memory shard by shard,
    their image embeddings once as a whole: this is for corpora of up to a few million pairs.
    """
    names = ("source_pairs", "images", "teacher_embeddings", "balance", "clusters")
    results = {name: read_result(root, name) for name in names}
    digests = [result.digest for result in results.values()]
    stage = Stage(root, FOLDER, version=3, config=config.content(), inputs={"data": digests})

    def write(output: Output) -> None:
        embeddings = results["teacher_embeddings"].parquet("teacher_embeddings")
        groups = pa.concat_tables(
            parquet.read_table(path, columns=["image_id", "kept"])
            for path in results["balance"].parquet("balance_groups")
        )
        every = groups["image_id"].to_numpy()
        kept = every[groups["kept"].to_numpy(zero_copy_only=False)]
        labels = output.path(f"{FOLDER}/labels.parquet")
        nearest = nearest_centroids(embeddings, results["clusters"].parquet("centroids")[0], id_column="image_id")
        parquet.write_table(nearest.filter(np.isin(nearest["image_id"].to_numpy(), every)), labels)
        pairs = output.path(f"{FOLDER}/pairs.parquet")
        parquet.write_table(_pairs(results), pairs)
        parameters = {
            "index": query.files(results["images"].parquet("index")),
            "pairs": query.files([pairs]),
            "captions": query.files(results["teacher_embeddings"].parquet("caption_embeddings")),
            "assignments": query.files([labels]),
            "embeddings": query.files(embeddings),
            "seed": config.seed,
        }
        scratch = root / ".tmp" / f"{FOLDER}-query"
        with query.connect(query_config, scratch=scratch) as connection, results["images"].borrowed(".tar"):
            chance = kept_by_chance(connection, every, len(kept), seed=config.seed)
            members = {ALL: every, BALANCED: kept, RANDOM: chance}
            rows = query.stream(connection, query.sql("pipeline.shards", "training_order"), parameters)
            for number, table in enumerate(query.cut(rows, config.samples_per_shard)):
                tar = output.path(f"{FOLDER}/{number:05d}.tar")
                output.rows += write_tar(tar, training_samples(root, table, output.rows))
                index = index_tar(tar)
                for name, ids in members.items():
                    chosen = index.filter(np.isin(index["image_id"].to_numpy(), ids))
                    parquet.write_table(chosen, output.path(f"{FOLDER}/{name}/{number:05d}.parquet"))
        output.stats = {name: len(ids) for name, ids in members.items()}

    return stage.each(write)


def _pairs(results: dict[str, StageResult]) -> pa.Table:
    """Every pair that is neither blocked nor filtered."""
    table = pa.concat_tables(
        parquet.read_table(path, columns=["sample_id", "image_id", "caption"])
        for path in results["source_pairs"].parquet("source_pairs")
    )
    return table.filter(pa.array(~np.isin(table["sample_id"].to_numpy(), unused_pairs(results["balance"]))))
