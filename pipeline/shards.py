"""Training shards: WebDataset tars of kept pairs, globally shuffled, with teacher embeddings and cluster labels.

Members of a sample: ``jpg``, ``txt``, ``json`` (``sample_id``, ``cluster_id``), ``image.npy``, ``text.npy`` (float16).
``training_shards/manifest.json`` says which teacher, preprocessing and clusters the shards were made with, so that the
trainer can refuse a mixture.
"""

import dataclasses
import functools
import io
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import query
from pipeline.config import QueryConfig, ShardsConfig
from pipeline.errors import ShardError
from pipeline.progress import Progress
from pipeline.store import Stage, StageResult, read_result
from pipeline.tars import TarReader, index_tar, write_tar
from pipeline.teacher import read_info
from pipeline.vectors import list_matrix

log = logging.getLogger(__name__)

_OPEN_TARS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardsManifest:
    """What training shards hold."""

    samples: int
    teacher: str
    weights_hash: str
    preprocessing_hash: str
    embed_dim: int
    clusters: int
    clusters_digest: str


def write_shards(root: Path, config: ShardsConfig, query_config: QueryConfig) -> StageResult:
    """Stage ``training_shards``. Raises :class:`ShardError` if a kept sample has lost its image, label or embedding."""
    images, embeddings = read_result(root, "images"), read_result(root, "teacher_embeddings")
    balance, clusters = read_result(root, "balance"), read_result(root, "clusters")
    pairs = balance.parquet("balanced_pairs")
    samples = sum(pq.read_metadata(path).num_rows for path in pairs)
    names = [f"{number:05d}" for number in range(math.ceil(samples / config.samples_per_shard))]
    digest = [images.digest, embeddings.digest, balance.digest, clusters.digest]
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
        with (
            query.connect(query_config, scratch=root / ".tmp" / "training_shards") as connection,
            Progress(log, "training_shards", total=samples, unit="samples") as progress,
        ):
            rows = query.stream(connection, query.sql("training_order"), parameters)
            written = 0
            for name, table in zip(names, query.cut(rows, config.samples_per_shard)):
                if name in pending:
                    _write_shard(stage, root, name, table, first=written)
                written += table.num_rows
                progress.add(table.num_rows)
        if written != samples:
            raise ShardError(
                f"{samples} pairs were kept, but {written} have an image, an embedding and a cluster label"
            )
        if "manifest" in pending:
            _write_manifest(stage, root, samples, clusters)
        return stage.finish()


def read_manifest(folder: Path) -> ShardsManifest:
    """The manifest of a folder of training shards; :class:`ShardError` if it has none."""
    try:
        return ShardsManifest(**json.loads((folder / "manifest.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ShardError(f"{folder}: no readable manifest.json of training shards: {error}") from error


def _write_shard(stage: Stage, root: Path, name: str, table: pa.Table, *, first: int) -> None:
    with stage.output(name) as output:
        tar = output.path(f"training_shards/{name}.tar")
        output.rows = write_tar(tar, training_samples(root, table, first))
        pq.write_table(index_tar(tar), output.path(f"training_shards/index/{name}.parquet"))
        output.stats = {"samples": output.rows}


def training_samples(root: Path, table: pa.Table, first: int) -> Iterator[dict[str, Any]]:
    """Members of the samples of a table with the columns of ``training_order.sql``; ``first`` numbers their keys."""

    @functools.lru_cache(maxsize=_OPEN_TARS)
    def reader(shard: str) -> TarReader:
        return TarReader(root / "images" / f"{shard}.tar")

    image = list_matrix(table["image_embedding"], what="image_embedding").astype(np.float16)
    text = list_matrix(table["text_embedding"], what="text_embedding").astype(np.float16)
    rows = table.drop_columns(["image_embedding", "text_embedding"]).to_pylist()
    for number, row in enumerate(rows):
        stored = reader(row["source_shard"]).sample(row["offset"], row["size"])
        yield {
            "__key__": f"{first + number:09d}",
            "jpg": stored["jpg"],
            "txt": row["caption"],
            "json": {"sample_id": row["sample_id"], "cluster_id": row["cluster_id"]},
            "image.npy": _npy(image[number]),
            "text.npy": _npy(text[number]),
        }


def _npy(vector: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, vector, allow_pickle=False)
    return buffer.getvalue()


def _write_manifest(stage: Stage, root: Path, samples: int, clusters: StageResult) -> None:
    info = dataclasses.asdict(read_info(root))
    manifest = ShardsManifest(
        samples=samples,
        teacher=info.pop("name"),
        clusters=clusters.stats["clusters"],
        clusters_digest=clusters.digest,
        **info,
    )
    with stage.output("manifest") as output:
        output.path("training_shards/manifest.json").write_text(json.dumps(dataclasses.asdict(manifest), indent=1))
