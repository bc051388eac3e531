"""Roots of made-up tables, as the stages would have left them, of any size and within seconds."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core import parquet, schema
from pipeline.core.tars import index_tar, sample_bytes, write_samples
from pipeline.storage.stage import Output, Stage

# As late as any stage has it, so that none counts as one of an earlier version.
_VERSION = 4
_SIDE = 48


def write_stage(
    root: Path, name: str, shards: Mapping[str, Callable[[Output], None]], stats: Mapping[str, Any] | None = None
) -> None:
    """Complete a stage whose shards are filled by these."""
    stage = Stage(root, name, version=_VERSION, config={}, inputs=dict.fromkeys(shards, ""))

    def work(pending: list[str]) -> Mapping[str, Any] | None:
        for shard in pending:
            with stage.output(shard) as output:
                shards[shard](output)
        return stats

    stage.run(work)


def write_table(root: Path, stage: str, table: str, rows: pa.Table, stats: Mapping[str, Any] | None = None) -> None:
    """Complete a stage of one file."""
    write_stage(root, stage, {table: lambda output: _put(output, f"{table}/{table}.parquet", rows)}, stats)


def write_images(root: Path, ids: np.ndarray, images: Sequence[bytes]) -> None:
    """The stage ``images``, all downloaded; ``images``: bytes of the first ones, which the others share with them."""

    def fill(output: Output) -> None:
        tar = output.path("images/00000.tar")
        members = [
            {"jpg": data, "json": f'{{"image_id": {ids[number]}}}'.encode()} for number, data in enumerate(images)
        ]
        write_samples((sample_bytes(f"{number:09}", sample) for number, sample in enumerate(members)), tar)
        index = index_tar(tar)
        shared = index.take(np.arange(len(ids)) % len(index)).set_column(0, index.schema.field(0), pa.array(ids))
        _put(output, "images/index/00000.parquet", shared)
        count = len(ids)
        columns: dict[str, Any] = {
            name: pa.nulls(count, schema.IMAGES.field(name).type) for name in schema.IMAGES.names
        }
        columns |= {"image_id": ids, "shard": ["00000"] * count, "status": ["success"] * count}
        _put(output, "images/00000.parquet", pa.table(columns, schema=schema.IMAGES))

    write_stage(root, "images", {"00000": fill}, {"downloaded": len(ids), "failed": 0})


def write_captions(root: Path, ids: np.ndarray, captions: Sequence[str | None]) -> None:
    """The stage ``source_pairs``: a caption each, whose ``sample_id`` is the image's id."""
    nothing = pa.nulls(len(ids), pa.string())
    columns = [ids, ids, nothing, pa.array(captions, pa.string())]
    rows = pa.Table.from_arrays(columns, schema=schema.SOURCE_PAIRS)
    write_table(root, "source_pairs", "source_pairs", rows)


def write_embeddings(root: Path, ids: np.ndarray, vectors: np.ndarray, similarity: np.ndarray | None = None) -> None:
    """The stage ``teacher_embeddings`` of float16 vectors (N, D); with ``similarity`` (N,) captions have them too."""
    width = vectors.shape[1]
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.reshape(-1)), type=schema.teacher_embeddings(width).field("image_embedding").type
    )

    def fill(output: Output) -> None:
        rows = pa.Table.from_arrays([ids, column], schema=schema.teacher_embeddings(width))
        _put(output, "teacher_embeddings/00000.parquet", rows)
        if similarity is not None:
            pairs = [ids, ids, column, pa.array(similarity, pa.float32())]
            rows = pa.Table.from_arrays(pairs, schema=schema.caption_embeddings(width))
            _put(output, "caption_embeddings/00000.parquet", rows)

    write_stage(root, "teacher_embeddings", {"00000": fill})


def write_forest(root: Path, a: np.ndarray, b: np.ndarray, distance: np.ndarray, *, images: int, reach: float) -> None:
    """The stage ``near_duplicates`` of edges between ids."""
    rows = pa.Table.from_arrays([a, b, pa.array(distance, pa.float32())], schema=schema.NEAR_DUPLICATES)
    rows = rows.replace_schema_metadata({"max_distance": str(reach)})
    write_table(root, "near_duplicates", "near_duplicates", rows, {"samples": images})


def some_images(count: int) -> list[bytes]:
    """Different small JPEGs."""
    from PIL import Image

    made = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((_SIDE, _SIDE)).save(buffer, "JPEG")
        made.append(buffer.getvalue())
    return made


def _put(output: Output, name: str, table: pa.Table) -> None:
    options = {"row_group_size": schema.EMBEDDING_ROW_GROUP} if "embeddings" in name else {}
    parquet.write_table(table, output.path(name), **options)
    output.rows += table.num_rows
