"""Training samples: everything that the tables say of an image and its captions, and its bytes from where they lie."""

import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.clip.views import FIELDS as VIEW_FIELDS
from pipeline.core.errors import ShardError
from pipeline.core.remote_tar import image_member, open_tar
from pipeline.core.tars import Place, TarReader
from pipeline.vectors.read import list_matrix

_OPEN_TARS = 64


def training_samples(
    root: Path, table: pa.Table, first: int, *, views: pa.Table | None = None
) -> Iterator[dict[str, Any]]:
    """Members of the samples of a table with the columns of ``training_order.sql``; ``first`` numbers their keys.

    ``views``: rows of ``teacher_views``, equally many for each image, in the order of the images.
    """

    @functools.lru_cache(maxsize=_OPEN_TARS)
    def reader(shard: str, tar: str | None) -> TarReader:
        return open_tar(root, shard, tar)

    image = list_matrix(table["image_embedding"], what="image_embedding").astype(np.float16)
    texts = _texts(table["text_embeddings"])
    shown = _by_image(views, table["image_id"].to_numpy()) if views is not None else None
    rows = table.drop_columns(["image_embedding", "text_embeddings"]).to_pylist()
    for number, row in enumerate(rows):
        extension, image_bytes = image_member(reader(row["source_shard"], row["tar"]).sample(*Place.of(row)))
        named = {name: row[name] for name in ("image_id", "cluster_id", "sample_ids", "captions")}
        sample = {
            "__key__": f"{first + number:09d}",
            extension: image_bytes,
            "txt": row["captions"][0],
            "json": named,
            "image.npy": _npy(image[number]),
            "text.npy": _npy(texts[number]),
        }
        if shown is not None:
            sample["json"]["views"], vectors = shown[number]
            sample["views.npy"] = _npy(vectors)
        yield sample


def _texts(column: pa.ChunkedArray) -> list[np.ndarray]:
    """Of each image the embeddings (captions, width) of its captions."""
    column = column.combine_chunks()
    matrix = list_matrix(column.flatten(), what="text_embedding").astype(np.float16)
    ends = np.cumsum(pc.list_value_length(column).to_numpy(zero_copy_only=False))
    return np.split(matrix, ends[:-1])


def _by_image(views: pa.Table, ids: np.ndarray) -> list[tuple[list[dict[str, Any]], np.ndarray]]:
    """Parameters and embeddings (views, width) of each image; :class:`ShardError` where they belong to another."""
    count = views.num_rows // max(len(ids), 1)
    if not np.array_equal(views["image_id"].to_numpy(), np.repeat(ids, count)):
        raise ShardError(f"teacher_views: not {count} views of each of {len(ids)} images")
    vectors = list_matrix(views["image_embedding"], what="image_embedding of teacher_views").astype(np.float16)
    made = views.select(VIEW_FIELDS).to_pylist()
    return [
        (made[start : start + count], vectors[start : start + count]) for start in range(0, len(made), max(count, 1))
    ]


def _npy(vector: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, vector, allow_pickle=False)
    return buffer.getvalue()
