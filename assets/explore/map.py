"""A map of the images: a point for each, as Apple's embedding-atlas reads it."""

import os
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from assets.explore.explorer import Explorer
from assets.explore.images import as_jpeg
from assets.explore.vectors import VectorFile
from pipeline.core import parquet
from pipeline.core.errors import MissingInputError, PipelineError

SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("x", pa.float32(), nullable=False),
        pa.field("y", pa.float32(), nullable=False),
        pa.field("caption", pa.string()),
        # The smallest id of the group; of an image that is alone its own.
        pa.field("group", pa.int64()),
        pa.field("cluster", pa.int32()),
        pa.field("thumbnail", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ]
)
_SIDE = 96


def write_map(explorer: Explorer, path: Path, *, threshold: float | None = None) -> int:
    """Write a row for each image with an embedding, in the order of the tables; returns how many.

    ``x``, ``y``: the first two principal components, no more than a linear shadow of the space: a UMAP is what
    embedding-atlas makes of a column of vectors, which this file has not. Groups are those at ``threshold``, by default
    that of the balance; null without a forest, as clusters are without a clustering. Raises :class:`MissingInputError`
    for a root without embeddings.
    """
    vectors = explorer.vectors
    if vectors is None:
        raise MissingInputError("a map needs the stage 'teacher_embeddings', which is not there yet")
    mean, axes = principal_axes(vectors)
    groups = _Groups(explorer, explorer.default_threshold() if threshold is None else threshold)
    clusters = _Clusters(explorer)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    rows = 0
    try:
        with parquet.writer(temporary, SCHEMA, compression="zstd") as file:
            for ids, matrix in vectors.chunks():
                flat = (matrix.astype(np.float32) - mean) @ axes
                captions = explorer.queries.captions(ids.tolist())
                table = {
                    "id": ids,
                    "x": flat[:, 0],
                    "y": flat[:, 1],
                    "caption": [captions.get(image) for image in ids.tolist()],
                    "group": groups.of(ids),
                    "cluster": clusters.of(ids),
                    "thumbnail": [_thumbnail(explorer, image) for image in ids.tolist()],
                }
                file.write_table(pa.table(table, schema=SCHEMA))
                rows += len(ids)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def principal_axes(vectors: VectorFile) -> tuple[np.ndarray, np.ndarray]:
    """``mean`` (D,) and the first two ``axes`` (D, 2), float32, by numpy's eigenvectors of the covariance; the largest
    coordinate of an axis is positive, so that no picture comes out mirrored."""
    count, total = 0, np.zeros(vectors.width)
    products = np.zeros((vectors.width, vectors.width))
    for _, matrix in vectors.chunks():
        part = matrix.astype(np.float64)
        count, total = count + len(part), total + part.sum(axis=0)
        products += part.T @ part
    mean = total / count
    _, found = np.linalg.eigh(products / count - np.outer(mean, mean))
    axes = found[:, : -(min(2, vectors.width) + 1) : -1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    if axes.shape[1] < 2:
        axes = np.pad(axes, ((0, 0), (0, 1)))
    return mean.astype(np.float32), axes.astype(np.float32)


class _Groups:
    def __init__(self, explorer: Explorer, threshold: float):
        self._forest = explorer.forest
        if self._forest is None:
            return
        forest, groups = self._forest, self._forest.groups(threshold)
        in_row = forest.ids[forest.row]
        smallest = in_row.copy()
        if len(groups):
            number = np.repeat(np.arange(len(groups)), groups.size)
            places = np.concatenate([np.arange(start, end) for start, end in zip(groups.start, groups.end)])
            least = np.full(len(groups), np.iinfo(np.int64).max)
            np.minimum.at(least, number, in_row[places])
            smallest[places] = least[number]
        self._group = np.empty(len(in_row), np.int64)
        self._group[forest.row] = smallest

    def of(self, ids: np.ndarray) -> pa.Array:
        if self._forest is None:
            return pa.nulls(len(ids), pa.int64())
        return pa.array(_looked_up(self._forest.ids, self._group, ids, ids))


class _Clusters:
    def __init__(self, explorer: Explorer):
        self._ids, self._cluster = np.empty(0, np.int64), np.empty(0, np.int32)
        if "cluster_assignments" in explorer.tables:
            table = explorer.queries.cluster_of_each()
            self._ids, self._cluster = (table[name].to_numpy() for name in ("image_id", "cluster_id"))

    def of(self, ids: np.ndarray) -> pa.Array:
        found = _looked_up(self._ids, self._cluster, ids, np.full(len(ids), -1, np.int32))
        return pa.array(found, pa.int32(), mask=found < 0)


def _looked_up(known: np.ndarray, values: np.ndarray, ids: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """``values`` of ascending ids ``known``, for each of ``ids``."""
    if not len(known):
        return otherwise
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[place] == ids, values[place], otherwise)


def _thumbnail(explorer: Explorer, image: int) -> dict[str, object] | None:
    if explorer.images is None or image not in explorer.images:
        return None
    try:
        data = as_jpeg(explorer.images.stored(image), _SIDE)
    except (PipelineError, OSError):
        return None
    return None if data is None else {"bytes": data, "path": f"{image}.jpg"}
