"""A small root with every table, made by hand where a stage would need the web or a model, else by its stage."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.balance.config import BalanceConfig
from pipeline.balance.stage import balance_pairs
from pipeline.clusters.config import ClustersConfig
from pipeline.clusters.stage import cluster_images
from pipeline.compute.config import ComputeConfig
from pipeline.core import parquet, schema
from pipeline.core.files import fingerprint_of
from pipeline.core.query import QueryConfig
from pipeline.core.tars import index_tar, write_tar
from pipeline.download.config import ImagesConfig
from pipeline.download.stage import count_statuses, download_images
from pipeline.embeddings.config import EmbeddingsConfig
from pipeline.embeddings.stage import embed_images
from pipeline.neighbors.config import NeighborsConfig
from pipeline.neighbors.stage import build_forest
from pipeline.shards.config import ShardsConfig
from pipeline.shards.stage import write_shards
from pipeline.storage.purged import purged_images, write_unpurged
from pipeline.storage.result import StageResult, read_result
from pipeline.storage.roots import storage_of
from pipeline.storage.stage import Stage
from pipeline.teacher.stage import INFO_FILE
from pipeline.vectors.write import EmbeddingWriter

IMAGES, DIM = 12, 8
FAILED = 11
"""An image that could not be fetched."""
BALANCE = BalanceConfig(threshold=0.3, captions="group")
COMPUTE = ComputeConfig(engine="inline")


def captions(image: int) -> list[str]:
    return [f"words about number {image}", *([f"more words about {image}"] if image % 3 == 0 else [])]


def url(image: int) -> str:
    return f"http://host{image % 4}.example/picture-{image}.jpg"


def sample_id(image: int, caption: int) -> int:
    return -1000 - 10 * image - caption


def jpeg(image: int) -> bytes:
    pixels = np.random.default_rng(image).integers(0, 256, (24, 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def vector(image: int) -> np.ndarray:
    """Images 0, 1, 2 and 3, 4 are near-duplicates, of different shards."""
    base = {1: 0, 2: 0, 4: 3}.get(image, image)
    values = np.random.default_rng(100 + base).normal(size=DIM)
    values += 0.03 * (image - base) * np.random.default_rng(200 + image).normal(size=DIM)
    return (values / np.linalg.norm(values)).astype(np.float16)


def words(image: int, caption: int) -> np.ndarray:
    values = np.random.default_rng(300 + 10 * image + caption).normal(size=DIM)
    return (values / np.linalg.norm(values)).astype(np.float16)


def shard_of(image: int) -> str:
    return f"{image % 2:05d}"


def build(root: Path) -> None:
    """Make everything under a root."""
    members = list_pairs(root)
    _images(root, members)
    _stage(root, "teacher", 1, "t", {"teacher": "x"}, lambda output: output.path(INFO_FILE).write_text(json.dumps(
        {"name": "t", "weights_hash": "w", "preprocessing_hash": "p", "embed_dim": DIM})))  # fmt: skip
    _embeddings(root, members)
    run_later(root)
    _clusters(root)
    write_shards(root, ShardsConfig(samples_per_shard=3), QueryConfig())
    shards = read_result(root, "training_shards")
    _stage(
        root,
        "student",
        1,
        "s",
        {"student": shards.digest},
        lambda output: output.path("student/w.json").write_text("{}"),
    )
    strays(root)


def list_pairs(root: Path) -> dict[str, list[int]]:
    """Make what is listed; returns the images of each shard."""
    members = {shard: [image for image in range(IMAGES) if shard_of(image) == shard] for shard in ("00000", "00001")}
    _source(root, members)
    return members


def run_later(root: Path) -> None:
    build_forest(root, NeighborsConfig(max_distance=0.6), COMPUTE)
    balance_pairs(root, BALANCE, QueryConfig())


def run_again(root: Path) -> dict[str, StageResult]:
    """What every stage says that is asked to do its work again."""
    return {
        "images": download_images(root, ImagesConfig()),
        "teacher_embeddings": embed_images(root, EmbeddingsConfig(), COMPUTE),
        "near_duplicates": build_forest(root, NeighborsConfig(max_distance=0.6), COMPUTE),
        "balance": balance_pairs(root, BALANCE, QueryConfig()),
        "clusters": cluster_images(root, ClustersConfig(clusters=2)),
        "training_shards": write_shards(root, ShardsConfig(samples_per_shard=3), QueryConfig()),
    }


def strays(root: Path) -> None:
    """What runs leave beside tables, each with something of every image."""
    everything = b"".join(jpeg(image) + url(image).encode() + captions(image)[0].encode() for image in range(IMAGES))
    names = [
        ".tmp/images/staging-1/part.tar",
        ".near_duplicates/rows.bin",
        "pictures/groups.png",
        ".marks/page/groups.json",
        "report.html",
        "images/00007.tar",
    ]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(everything)
    index = root / "runs/baseline/index/00000.parquet"
    index.parent.mkdir(parents=True)
    pq.write_table(pa.table({"captions": [captions(image) for image in range(IMAGES)]}), index)
    storage_of(root).upload([*names, str(index.relative_to(root))])


def _stage(root: Path, name: str, version: int, config: Any, inputs: dict[str, Any], write: Any) -> StageResult:  # noqa: PLR0917
    return Stage(root, name, version=version, config=config, inputs=inputs).each(write)


def _source(root: Path, members: dict[str, list[int]]) -> None:
    purged = purged_images(root)

    def write(output: Any) -> None:
        for shard, images in members.items():
            rows = [
                {
                    "sample_id": sample_id(image, number),
                    "image_id": image,
                    "url": url(image),
                    "caption": text,
                    "uid": f"{image:032x}",
                }
                for image in images
                for number, text in enumerate(captions(image))
            ]
            pairs = pa.Table.from_pylist(rows, schema=schema.SOURCE_PAIRS)
            write_unpurged(output, f"source_pairs/{shard}.parquet", pairs, purged, compression="zstd")
            carried = pa.schema([schema.SAMPLE_ID, schema.IMAGE_ID, pa.field("uid", pa.string())])
            attributes = pa.Table.from_pylist(rows, schema=carried)
            write_unpurged(output, f"source_attributes/{shard}.parquet", attributes, purged, compression="zstd")
            output.rows += len(rows)
        output.stats = {"pairs": output.rows}

    _stage(root, "source_pairs", 3, "x", {"pairs": 1}, write)


def _images(root: Path, members: dict[str, list[int]]) -> None:
    inputs = read_result(root, "source_pairs").file_digests("source_pairs")

    def write(output: Any) -> None:
        tar = output.path(f"images/{output.shard}.tar")
        # As they arrived, which is not the order of their keys.
        there = [image for image in members[output.shard] if image != FAILED][::-1]
        write_tar(
            tar,
            (
                {
                    "__key__": f"{image:09d}",
                    "jpg": jpeg(image),
                    "txt": captions(image)[0],
                    "json": json.dumps({"image_id": image, "url": url(image)}),
                }
                for image in there
            ),
        )
        parquet.write_table(index_tar(tar), output.path(f"images/index/{output.shard}.parquet"))
        rows = [
            {
                "image_id": image,
                "shard": output.shard,
                "key": f"{image:09d}",
                "url": url(image),
                "status": "success" if image in there else "failed_to_download",
                "sha256": f"{image:064x}" if image in there else None,
                "md5": f"{image:032x}" if image in there else None,
            }
            for image in members[output.shard]
        ]
        statuses = pa.Table.from_pylist(rows, schema=schema.IMAGES)
        parquet.write_table(statuses, output.path(f"images/{output.shard}.parquet"), compression="zstd")
        output.rows, output.stats = len(rows), count_statuses(statuses)

    _stage(root, "images", 3, ImagesConfig().content(), inputs, write)


def _embeddings(root: Path, members: dict[str, list[int]]) -> None:
    source = read_result(root, "source_pairs").file_digests("source_pairs")
    images, teacher = read_result(root, "images").shard_digests, read_result(root, "teacher").digest
    inputs = {shard: fingerprint_of(fingerprint_of(digest, teacher), source[shard]) for shard, digest in images.items()}

    def write(output: Any) -> None:
        there = [image for image in members[output.shard] if image != FAILED]
        with EmbeddingWriter(
            output.path(f"teacher_embeddings/{output.shard}.parquet"), schema.teacher_embeddings(DIM)
        ) as writer:
            writer.add({"image_id": there, "image_embedding": np.stack([vector(image) for image in there])})
        pairs = [(image, number) for image in there for number in range(len(captions(image)))]
        with EmbeddingWriter(
            output.path(f"caption_embeddings/{output.shard}.parquet"), schema.caption_embeddings(DIM)
        ) as writer:
            writer.add(
                {
                    "sample_id": [sample_id(*pair) for pair in pairs],
                    "image_id": [image for image, _ in pairs],
                    "text_embedding": np.stack([words(*pair) for pair in pairs]),
                    "image_text_similarity": [0.5] * len(pairs),
                }
            )
        output.rows, output.stats = len(there), {"embedding_s": 1.5, "captions": len(pairs)}

    _stage(root, "teacher_embeddings", 3, EmbeddingsConfig().plain(), inputs, write)


def _clusters(root: Path) -> None:
    inputs = {"clusters": [read_result(root, "teacher_embeddings").digest, read_result(root, "balance").digest]}
    kept = sorted(set(pq.read_table(read_result(root, "balance").parquet("balanced_pairs")[0])["image_id"].to_pylist()))

    def write(output: Any) -> None:
        rows = [{"image_id": image, "cluster_id": image % 2, "distance": 0.5} for image in kept]
        parquet.write_table(
            pa.Table.from_pylist(rows, schema=schema.CLUSTER_ASSIGNMENTS),
            output.path("cluster_assignments/cluster_assignments.parquet"),
        )
        centers = [{"cluster_id": number, "centroid": [1.0] + [0.0] * (DIM - 1)} for number in range(2)]
        parquet.write_table(
            pa.Table.from_pylist(centers, schema=schema.centroids(DIM)), output.path("centroids/centroids.parquet")
        )
        output.rows, output.stats = len(rows), {"samples": len(rows), "clusters": 2}

    _stage(root, "clusters", 2, ClustersConfig(clusters=2).content(), inputs, write)
