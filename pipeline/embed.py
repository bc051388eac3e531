"""Teacher embeddings: a shard of images and captions in, a Parquet file of float16 unit vectors out."""

import dataclasses
import functools
import io
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schema
from pipeline.compute import map_shards
from pipeline.config import ComputeConfig, EmbeddingsConfig
from pipeline.errors import EmbeddingError, ShardError
from pipeline.files import fingerprint_of
from pipeline.progress import Progress
from pipeline.storage import storage_of
from pipeline.store import Stage, StageResult, read_result, shard_digests, shard_marks
from pipeline.tars import TarReader
from pipeline.teacher import LoadedClip, TeacherInfo, load_clip, read_info, teacher_folder

log = logging.getLogger(__name__)

_AHEAD = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardTask:
    """All that a worker needs to embed one shard; small and picklable."""

    shard: str
    root: Path
    stage: Stage
    output: Path
    config: EmbeddingsConfig


def embed_images(root: Path, config: EmbeddingsConfig, compute: ComputeConfig) -> StageResult:
    """Stage ``teacher_embeddings``: image and text embeddings of every downloaded pair, one file per shard.

    Raises :class:`EmbeddingError` for vectors that are not finite, :class:`ShardError` for an unreadable image or tar.
    """
    teacher = read_result(root, "teacher")
    read_result(root, "images")
    images = shard_digests(root, "images")
    inputs = {shard: fingerprint_of(digest, teacher.digest) for shard, digest in images.items()}
    stage = Stage(root, "teacher_embeddings", version=1, config=config.content(), inputs=inputs)
    if stage.is_complete():
        return stage.result()
    with stage.running():
        pending = stage.pending()
        counts = {shard: mark.stats["downloaded"] for shard, mark in shard_marks(root, "images").items()}
        scratch = root / ".tmp" / "teacher_embeddings"
        tasks = [
            ShardTask(
                shard=shard, root=root, stage=stage.only(shard), output=scratch / f"{shard}.parquet", config=config
            )
            for shard in pending
        ]
        with (
            Progress(
                log, "teacher_embeddings", total=sum(counts[shard] for shard in pending), unit="pairs"
            ) as progress,
            map_shards(publish_shard, tasks, compute, keeps_state=True) as finished,
        ):
            for task in finished:
                stage.done_elsewhere(task.shard)
                progress.add(counts[task.shard])
        return stage.finish()


def publish_shard(task: ShardTask) -> ShardTask:
    """Embed one shard and publish it, on whatever machine this is: of the root it needs the shard and the teacher."""
    task.stage.attach()
    task.output.parent.mkdir(parents=True, exist_ok=True)
    names = (f"images/{task.shard}.tar", f"images/index/{task.shard}.parquet")
    with storage_of(task.root).borrowed(names), task.stage.output(task.shard) as output:
        embed_shard(task)
        output.rows = pq.read_metadata(task.output).num_rows
        task.output.replace(output.path(f"teacher_embeddings/{task.shard}.parquet"))
    return task


def embed_shard(task: ShardTask) -> ShardTask:
    """Embed one shard into ``task.output``; runs in any process and keeps the teacher for the next shard."""
    teacher = read_info(task.root)
    clip = _teacher(teacher_folder(task.root), teacher.weights_hash, task.config.device, task.config.precision)
    metadata = {key: str(value) for key, value in dataclasses.asdict(teacher).items()}
    table_schema = schema.teacher_embeddings(clip.embed_dim).with_metadata(metadata)
    # Vectors do not repeat and hardly compress: a dictionary and statistics would only cost time.
    with pq.ParquetWriter(
        task.output, table_schema, compression="zstd", use_dictionary=False, write_statistics=["sample_id"]
    ) as writer:
        held: list[pa.Table] = []
        for table in _embedded(task, clip, teacher, table_schema):
            held.append(table)
            if sum(part.num_rows for part in held) >= schema.EMBEDDING_ROW_GROUP:
                writer.write_table(pa.concat_tables(held), row_group_size=schema.EMBEDDING_ROW_GROUP)
                held.clear()
        if held:
            writer.write_table(pa.concat_tables(held), row_group_size=schema.EMBEDDING_ROW_GROUP)
    return task


@functools.lru_cache(maxsize=1)
def _teacher(folder: Path, weights_hash: str, device: str, precision: str) -> LoadedClip:
    """The teacher of this process; ``weights_hash`` is there so that another teacher is not mistaken for it."""
    del weights_hash
    return load_clip(folder, device=device, precision=precision)


def _embedded(task: ShardTask, clip: LoadedClip, teacher: TeacherInfo, table_schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of embeddings, batch by batch, in the order of the keys."""
    import torch

    for ids, images, texts in _batches(task, clip):
        with torch.inference_mode():
            image = clip.model.encode_image(images.to(clip.device, _input_type(clip)), normalize=True)
            text = clip.model.encode_text(texts.to(clip.device), normalize=True)
        columns = [pa.array(ids, pa.int64())]
        for name, features in (("image", image), ("text", text)):
            vectors = _unit(features.float().cpu().numpy())
            bad = ~np.isfinite(vectors).all(axis=1)
            if bad.any():
                raise EmbeddingError(
                    f"shard {task.shard}: {int(bad.sum())} {name} embeddings of teacher {teacher.name} are not finite, "
                    f"e.g. of sample_id {ids[int(np.argmax(bad))]}"
                )
            columns.append(_fixed_size_list(vectors.astype(np.float16), table_schema.field(f"{name}_embedding").type))
        yield pa.Table.from_arrays(columns, schema=table_schema)


def _batches(task: ShardTask, clip: LoadedClip) -> Iterator[tuple[list[int], Any, Any]]:
    """``(sample ids, images (B, 3, H, W), tokens (B, L))`` in the order of the keys; decoding runs ahead in threads."""
    import torch

    index = pq.read_table(_index(task.root, task.shard)).to_pylist()
    reader = TarReader(task.root / "images" / f"{task.shard}.tar")
    size = task.config.batch_size

    def load(rows: list[dict[str, Any]]) -> tuple[list[int], Any, Any]:
        samples = [reader.sample(row["offset"], row["size"]) for row in rows]
        pixels = [_decode(sample, row, task.shard, clip) for sample, row in zip(samples, rows)]
        texts = clip.tokenizer([sample["txt"].decode() for sample in samples])
        return [row["sample_id"] for row in rows], torch.stack(pixels), texts

    with ThreadPoolExecutor(task.config.decode_threads) as pool:
        starts = range(0, len(index), size)
        waiting = [pool.submit(load, index[start : start + size]) for start in starts[:_AHEAD]]
        for start in starts:
            yield waiting.pop(0).result()
            if start + _AHEAD * size < len(index):
                begin = start + _AHEAD * size
                waiting.append(pool.submit(load, index[begin : begin + size]))


def _decode(sample: dict[str, bytes], row: dict[str, Any], shard: str, clip: LoadedClip) -> Any:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(sample["jpg"])) as image:
            return clip.preprocess(image)
    except (OSError, KeyError) as error:
        raise ShardError(f"images/{shard}.tar, key {row['key']}: no readable jpg member: {error!r}") from error


def _input_type(clip: LoadedClip) -> Any:
    return next(clip.model.visual.parameters()).dtype


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Normalise again in float32: a half-precision model's own normalisation is off by up to 1e-3."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _fixed_size_list(vectors: np.ndarray, type_: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=type_)


def _index(root: Path, shard: str) -> Path:
    return root / "images" / "index" / f"{shard}.parquet"
