"""Training shards: WebDataset tars of kept pairs, globally shuffled, with teacher embeddings and cluster labels.

Members of a sample: ``jpg``, ``txt``, ``json`` (``sample_id``, ``cluster_id``), ``image.npy``, ``text.npy`` (float16).
Where there are views, ``views.npy`` (views, width) has the teacher's embeddings of them, in the order of the list
``views`` in ``json``, which says how each is made of ``jpg``.
``training_shards/manifest.json`` says which teacher, preprocessing and clusters the shards were made with, so that the
trainer can refuse a mixture.
"""

import dataclasses
import functools
import io
import itertools
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import query
from pipeline.config import QueryConfig, ShardsConfig
from pipeline.errors import ShardError
from pipeline.manifest import ShardsManifest, read_manifest
from pipeline.progress import Progress
from pipeline.store import Stage, StageResult, read_result
from pipeline.tars import TarReader, index_tar, write_tar
from pipeline.teacher import read_info
from pipeline.vectors import list_matrix
from pipeline.views import FIELDS as VIEW_FIELDS

__all__ = ["ShardsManifest", "read_manifest", "training_samples", "write_shards"]

log = logging.getLogger(__name__)

_OPEN_TARS = 64


def write_shards(root: Path, config: ShardsConfig, query_config: QueryConfig, *, views: int = 1) -> StageResult:
    """Stage ``training_shards``; ``views`` as in :class:`pipeline.config.EmbeddingsConfig`.

    Raises :class:`ShardError` if a kept sample has lost its image, label, embedding or one of its views.
    """
    images, embeddings = read_result(root, "images"), read_result(root, "teacher_embeddings")
    balance, clusters = read_result(root, "balance"), read_result(root, "clusters")
    augmented = read_result(root, "teacher_views") if views > 1 else None
    pairs = balance.parquet("balanced_pairs")
    samples = sum(pq.read_metadata(path).num_rows for path in pairs)
    if augmented is not None and augmented.rows != samples * views:
        raise ShardError(f"{samples} pairs were kept, but {augmented.rows} views of {views} each were embedded")
    names = [f"{number:05d}" for number in range(math.ceil(samples / config.samples_per_shard))]
    digest = [result.digest for result in (images, embeddings, balance, clusters, augmented) if result is not None]
    stage = Stage(
        root, "training_shards", version=1, config=config.content(), inputs=dict.fromkeys([*names, "manifest"], digest)
    )
    if stage.is_complete():
        return stage.result()
    with stage.running(), images.borrowed(".tar"):
        pending = set(stage.pending())
        parameters = {
            "index": query.files(images.parquet("index")),
            "pairs": query.files(pairs),
            "assignments": query.files(clusters.parquet("cluster_assignments")),
            "embeddings": query.files(embeddings.parquet("teacher_embeddings")),
            "seed": config.seed,
        }
        scratch = root / ".tmp" / "training_shards"
        with (
            query.connect(query_config, scratch=scratch) as connection,
            query.connect(query_config, scratch=scratch) as beside,
            Progress(log, "training_shards", total=samples, unit="samples") as progress,
        ):
            rows = query.stream(connection, query.sql("training_order"), parameters)
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
                f"{samples} pairs were kept, but {written} have an image, an embedding and a cluster label"
            )
        if "manifest" in pending:
            _write_manifest(stage, root, samples, clusters, views)
        return stage.finish()


def _views(
    connection: duckdb.DuckDBPyConnection, result: StageResult | None, parameters: dict[str, Any], rows: int
) -> Iterator[pa.Table | None]:
    """Tables of the views of as many samples as a shard has; none for each shard where there are no views."""
    if result is None:
        return itertools.repeat(None)
    chosen = {name: parameters[name] for name in ("pairs", "seed")}
    files = {"views": query.files(result.parquet("teacher_views"))}
    return query.cut(query.stream(connection, query.sql("training_views"), chosen | files), rows)


def _write_shard(stage: Stage, root: Path, name: str, table: pa.Table, *, first: int, views: pa.Table | None) -> None:
    with stage.output(name) as output:
        tar = output.path(f"training_shards/{name}.tar")
        output.rows = write_tar(tar, training_samples(root, table, first, views=views))
        pq.write_table(index_tar(tar), output.path(f"training_shards/index/{name}.parquet"))
        output.stats = {"samples": output.rows}


def training_samples(
    root: Path, table: pa.Table, first: int, *, views: pa.Table | None = None
) -> Iterator[dict[str, Any]]:
    """Members of the samples of a table with the columns of ``training_order.sql``; ``first`` numbers their keys.

    ``views``: rows of ``teacher_views``, equally many for each sample, in the order of the samples.
    """

    @functools.lru_cache(maxsize=_OPEN_TARS)
    def reader(shard: str) -> TarReader:
        return TarReader(root / "images" / f"{shard}.tar")

    image = list_matrix(table["image_embedding"], what="image_embedding").astype(np.float16)
    text = list_matrix(table["text_embedding"], what="text_embedding").astype(np.float16)
    shown = _by_sample(views, table["sample_id"].to_numpy()) if views is not None else None
    rows = table.drop_columns(["image_embedding", "text_embedding"]).to_pylist()
    for number, row in enumerate(rows):
        stored = reader(row["source_shard"]).sample(row["offset"], row["size"])
        sample = {
            "__key__": f"{first + number:09d}",
            "jpg": stored["jpg"],
            "txt": row["caption"],
            "json": {"sample_id": row["sample_id"], "cluster_id": row["cluster_id"]},
            "image.npy": _npy(image[number]),
            "text.npy": _npy(text[number]),
        }
        if shown is not None:
            sample["json"]["views"], vectors = shown[number]
            sample["views.npy"] = _npy(vectors)
        yield sample


def _by_sample(views: pa.Table, ids: np.ndarray) -> list[tuple[list[dict[str, Any]], np.ndarray]]:
    """Parameters and embeddings (views, width) of each sample; :class:`ShardError` where they belong to another."""
    count = views.num_rows // max(len(ids), 1)
    if not np.array_equal(views["sample_id"].to_numpy(), np.repeat(ids, count)):
        raise ShardError(f"teacher_views: not {count} views of each of {len(ids)} samples")
    vectors = list_matrix(views["image_embedding"], what="image_embedding of teacher_views").astype(np.float16)
    made = views.select(VIEW_FIELDS).to_pylist()
    return [
        (made[start : start + count], vectors[start : start + count]) for start in range(0, len(made), max(count, 1))
    ]


def _npy(vector: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, vector, allow_pickle=False)
    return buffer.getvalue()


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
