"""Training shards: WebDataset tars of kept images, globally shuffled, with teacher embeddings and cluster labels.

A sample is an image. Its members: ``jpg``, ``txt`` (its first caption), ``json`` (``image_id``, ``cluster_id``, and the
lists ``sample_ids`` and ``captions``), ``image.npy`` (width,), ``text.npy`` (captions, width), both float16.
Where there are views, ``views.npy`` (views, width) has the teacher's embeddings of them, in the order of the list
``views`` in ``json``, which says how each is made of ``jpg``.
``training_shards/manifest.json`` says which teacher, preprocessing and clusters the shards were made with, so that the
trainer can refuse a mixture.
"""

import dataclasses
import itertools
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.core import parquet, query
from pipeline.core.errors import ShardError
from pipeline.core.manifest import ShardsManifest, read_manifest
from pipeline.core.progress import Progress
from pipeline.core.query import QueryConfig
from pipeline.core.tars import index_tar, write_tar
from pipeline.shards.config import ShardsConfig
from pipeline.shards.samples import training_samples
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.stage import Stage
from pipeline.teacher.stage import read_info

__all__ = ["ShardsManifest", "read_manifest", "training_samples", "write_shards"]

log = logging.getLogger(__name__)


def write_shards(root: Path, config: ShardsConfig, query_config: QueryConfig, *, views: int = 1) -> StageResult:
    """Stage ``training_shards``; ``views`` as in :class:`pipeline.core.settings.EmbeddingsConfig`.

    Raises :class:`ShardError` if a kept image has lost its image, label, embedding or one of its views.
    """
    images, embeddings = read_result(root, "images"), read_result(root, "teacher_embeddings")
    balance, clusters = read_result(root, "balance"), read_result(root, "clusters")
    augmented = read_result(root, "teacher_views") if views > 1 else None
    pairs = balance.parquet("balanced_pairs")
    samples = balance.stats["kept"]
    if augmented is not None and augmented.rows != samples * views:
        raise ShardError(f"{samples} images were kept, but {augmented.rows} views of {views} each were embedded")
    # As many shards as before images were purged: those that are there are kept, each with what is left of it.
    planned = samples + sum(map(len, balance.stats.get("purged_kept", {}).values()))
    names = [f"{number:05d}" for number in range(math.ceil(planned / config.samples_per_shard))]
    digest = [result.digest for result in (images, embeddings, balance, clusters, augmented) if result is not None]
    stage = Stage(
        root, "training_shards", version=2, config=config.content(), inputs=dict.fromkeys([*names, "manifest"], digest)
    )

    def write(pending: list[str]) -> None:
        parameters = {
            "index": query.files(images.parquet("index")),
            "pairs": query.files(pairs),
            "assignments": query.files(clusters.parquet("cluster_assignments")),
            "embeddings": query.files(embeddings.verified("teacher_embeddings")),
            "captions": query.files(embeddings.parquet("caption_embeddings")),
            "seed": config.seed,
        }
        scratch = root / ".tmp" / "training_shards"
        with (
            images.borrowed(".tar"),
            query.connect(query_config, scratch=scratch) as connection,
            query.connect(query_config, scratch=scratch) as beside,
            Progress(log, "training_shards", total=samples, unit="images") as progress,
        ):
            rows = query.stream(connection, query.sql("pipeline.shards", "training_order"), parameters)
            drawn = _views(beside, augmented, parameters, config.samples_per_shard * views)
            written = 0
            for name, table in zip(names, query.cut(rows, config.samples_per_shard)):
                shown = next(drawn)
                if name in pending:
                    _write_shard(stage, root, name, table, first=written, views=shown)
                written += table.num_rows
                progress.add(table.num_rows)
        if written != samples:
            raise ShardError(
                f"{samples} images were kept, but {written} have their bytes, embeddings and a cluster label"
            )
        if "manifest" in pending:
            _write_manifest(stage, root, samples, clusters, views)

    return stage.run(write)


def _views(
    connection: duckdb.DuckDBPyConnection, result: StageResult | None, parameters: dict[str, Any], rows: int
) -> Iterator[pa.Table | None]:
    """Tables of the views of as many samples as a shard has; none for each shard where there are no views."""
    if result is None:
        return itertools.repeat(None)
    chosen = {name: parameters[name] for name in ("pairs", "seed")}
    files = {"views": query.files(result.verified("teacher_views"))}
    return query.cut(query.stream(connection, query.sql("pipeline.shards", "training_views"), chosen | files), rows)


def _write_shard(stage: Stage, root: Path, name: str, table: pa.Table, *, first: int, views: pa.Table | None) -> None:
    with stage.output(name) as output:
        tar = output.path(f"training_shards/{name}.tar")
        output.rows = write_tar(tar, training_samples(root, table, first, views=views))
        parquet.write_table(index_tar(tar), output.path(f"training_shards/index/{name}.parquet"))
        output.stats = {"samples": output.rows}


def _write_manifest(stage: Stage, root: Path, samples: int, clusters: StageResult, views: int) -> None:
    info = dataclasses.asdict(read_info(root))
    manifest = ShardsManifest(
        samples=samples,
        teacher=info.pop("name"),
        clusters=clusters.stats["clusters"],
        clusters_digest=clusters.digest,
        views=views,
        **info,
    )
    with stage.output("manifest") as output:
        output.path("training_shards/manifest.json").write_text(json.dumps(dataclasses.asdict(manifest), indent=1))
