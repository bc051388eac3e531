"""Embeddings from Parquet into numpy, checked: ids unique, one width, finite, unit length."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import EmbeddingError

# float16 storage moves the length of a unit vector by up to about 5e-4.
_NORM_TOLERANCE = 5e-3
_BATCH_ROWS = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vectors:
    """``ids`` (N,) int64 ascending and unique, ``matrix`` (N, D) float32, row i belonging to ``ids[i]``."""

    ids: np.ndarray
    matrix: np.ndarray


def as_paths(embeddings: Path | Sequence[Path]) -> list[Path]:
    """One Parquet file, a folder of them, or a list: the files, all present."""
    given = [Path(embeddings)] if isinstance(embeddings, str | Path) else [Path(path) for path in embeddings]
    paths = [file for path in given for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        raise EmbeddingError(f"no Parquet file of embeddings at {missing[0] if missing else given}")
    return paths


def read_vectors(embeddings: Path | Sequence[Path], *, column: str = "image_embedding") -> Vectors:
    """All rows, ordered by ``sample_id``.

    ``column`` is a list or fixed-size list of float16, float32 or float64. Raises :class:`EmbeddingError` naming file
    and number of rows for missing columns, nulls, mixed widths, repeated ids, and vectors that are not finite or not
    of unit length.
    """
    parts = [part for path in as_paths(embeddings) for part in _read(path, column)]
    widths = {matrix.shape[1] for _, matrix in parts if len(matrix)}
    if not widths:
        raise EmbeddingError(f"no embeddings: {len(as_paths(embeddings))} files without a row")
    if len(widths) > 1:
        raise EmbeddingError(f"embeddings of mixed widths {sorted(widths)} among {len(as_paths(embeddings))} files")
    ids = np.concatenate([part for part, _ in parts])
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    repeated = np.unique(ids[1:][ids[1:] == ids[:-1]])
    if len(repeated):
        raise EmbeddingError(f"{len(repeated)} values of sample_id stand more than once, e.g. {repeated[0]}")
    matrix = np.concatenate([part for _, part in parts if len(part)])
    return Vectors(ids=ids, matrix=np.ascontiguousarray(matrix[order]))


def list_matrix(array: pa.Array | pa.ChunkedArray, *, what: str) -> np.ndarray:
    """A list column as (rows, width), in its own float type; :class:`EmbeddingError` for nulls and ragged lists."""
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if not (
        pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type)
    ):
        raise EmbeddingError(f"{what}: expected lists of floats, got {array.type}")
    if not pa.types.is_floating(array.type.value_type):
        raise EmbeddingError(f"{what}: expected lists of floats, got lists of {array.type.value_type}")
    values = array.flatten()
    if array.null_count or values.null_count:
        raise EmbeddingError(f"{what}: {array.null_count or values.null_count} nulls")
    if not len(array):
        return np.empty((0, 0), np.float32)
    if not pa.types.is_fixed_size_list(array.type):
        widths = np.unique(np.diff(array.offsets.to_numpy()))
        if len(widths) > 1:
            raise EmbeddingError(f"{what}: lists of mixed widths {widths[:5].tolist()}")
    return values.to_numpy(zero_copy_only=False).reshape(len(array), -1)


def _read(path: Path, column: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise EmbeddingError(f"{path}: not a readable Parquet file: {error}") from error
    missing = {"sample_id", column} - set(file.schema_arrow.names)
    if missing:
        raise EmbeddingError(f"{path}: no column {sorted(missing)}; it has {file.schema_arrow.names}")
    for batch in file.iter_batches(_BATCH_ROWS, columns=["sample_id", column]):
        matrix = list_matrix(batch.column(column), what=f"{path}, column {column}").astype(np.float32)
        _check(matrix, path)
        yield batch.column("sample_id").to_numpy(), matrix


def _check(matrix: np.ndarray, path: Path) -> None:
    if not len(matrix):
        return
    norms = np.linalg.norm(matrix, axis=1)
    bad = ~np.isfinite(norms)
    if bad.any():
        raise EmbeddingError(f"{path}: {int(bad.sum())} vectors are not finite")
    off = np.abs(norms - 1) > _NORM_TOLERANCE
    if off.any():
        raise EmbeddingError(
            f"{path}: {int(off.sum())} of {len(matrix)} vectors are not of unit length, "
            f"lengths {norms[off].min():.4g} to {norms[off].max():.4g}; normalise them first"
        )
