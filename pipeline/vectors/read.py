"""Embeddings from Parquet into numpy, checked: ids unique, one width, finite, unit length."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core import parquet
from pipeline.core.errors import EmbeddingError

# float16 storage moves the length of a unit vector by up to about 5e-4.
_NORM_TOLERANCE = 5e-3
_BATCH_ROWS = 8192
# Few enough for a float32 copy to stay in the cache.
_CHECKED_ROWS = 512


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingFile:
    """What a Parquet file says of itself: ``type`` is the float type of the embedding column."""

    path: Path
    rows: int
    type: str
    width: int | None
    """None for lists without a fixed size."""


def inspect(
    embeddings: Path | Sequence[Path], *, column: str = "image_embedding", id_column: str = "sample_id"
) -> list[EmbeddingFile]:
    """What the footers of all files say; :class:`EmbeddingError` names the first bad file."""
    files = [_inspect(path, column, id_column) for path in as_paths(embeddings)]
    fixed = {file.width: file for file in files if file.width is not None and file.rows}
    if len(fixed) > 1:
        raise EmbeddingError(
            f"embeddings of mixed widths {sorted(width for width in fixed if width)}, e.g. "
            + " and ".join(f"{file.path} has {width}" for width, file in list(fixed.items())[:2])
        )
    return files


def checked_batches(
    file: EmbeddingFile, *, column: str = "image_embedding", id_column: str = "sample_id"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """``(ids (B,) int64, vectors (B, D))`` of one file, vectors in their stored float type.

    Raises :class:`EmbeddingError` naming the file and the number of rows of this file for nulls, ragged lists, and
    vectors that are not finite or not of unit length.
    """
    faults = _Faults()
    # Reading ahead as pyarrow does it by default keeps all of the file that it has read.
    with parquet.reading(file.path, EmbeddingError):
        opened = parquet.open_file(file.path, pre_buffer=False)
        batches = opened.iter_batches(_BATCH_ROWS, columns=[id_column, column], use_threads=False)
        for batch in _read_ahead(batches):
            nulls = batch.column(column).null_count
            if faults.add_nulls(nulls):
                continue
            matrix = list_matrix(batch.column(column), what=f"{file.path}, column {column}")
            faults.add(matrix)
            if not faults.found:
                yield _as_ids(batch.column(id_column), file.path, id_column), matrix
    faults.raise_for(file)


def read_vectors(
    embeddings: Path | Sequence[Path], *, column: str = "image_embedding", id_column: str = "sample_id"
) -> Vectors:
    """All rows, ordered by ``id_column``.

    ``column`` is a list or fixed-size list of float16, float32 or float64. Raises :class:`EmbeddingError` naming file
    and number of rows for missing columns, nulls, mixed widths, repeated ids, and vectors that are not finite or not
    of unit length.
    """
    names = {"column": column, "id_column": id_column}
    parts = [part for file in inspect(embeddings, **names) for part in checked_batches(file, **names)]
    widths = {matrix.shape[1] for _, matrix in parts if len(matrix)}
    if not widths:
        raise EmbeddingError(f"no embeddings: {len(as_paths(embeddings))} files without a row")
    if len(widths) > 1:
        raise EmbeddingError(f"embeddings of mixed widths {sorted(widths)} among {len(as_paths(embeddings))} files")
    ids = np.concatenate([part for part, _ in parts])
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    _require_unique(ids, id_column)
    matrix = np.concatenate([part.astype(np.float32) for _, part in parts if len(part)])
    return Vectors(ids=ids, matrix=np.ascontiguousarray(matrix[order]))


def read_ids(path: Path, id_column: str = "sample_id") -> np.ndarray:
    """The ids (N,) int64 of one file, in its order; :class:`EmbeddingError` names a file that lacks one in some row."""
    with parquet.reading(path, EmbeddingError):
        file = parquet.open_file(path)
        _require_columns(file.schema_arrow, path, id_column)
        return _as_ids(file.read(columns=[id_column])[id_column], path, id_column)


def _as_ids(column: pa.Array | pa.ChunkedArray, path: Path, id_column: str) -> np.ndarray:
    if column.null_count:
        raise EmbeddingError(f"{path}: {column.null_count} rows without a {id_column}")
    try:
        return np.asarray(column.cast(pa.int64()))
    except pa.ArrowInvalid as error:
        raise EmbeddingError(f"{path}, column {id_column}: expected 64-bit signed integers; {error}") from error


def unique_ids(files: Sequence[EmbeddingFile], *, id_column: str = "sample_id") -> np.ndarray:
    """The ids (N,) of all files, ascending; :class:`EmbeddingError` if there is none, or one twice."""
    ids = np.sort(np.concatenate([read_ids(file.path, id_column) for file in files]))
    if not len(ids):
        raise EmbeddingError(f"no embeddings: {len(files)} files without a row")
    _require_unique(ids, id_column)
    return ids


def _require_unique(ascending: np.ndarray, id_column: str) -> None:
    repeated = np.unique(ascending[1:][ascending[1:] == ascending[:-1]])
    if len(repeated):
        raise EmbeddingError(f"{len(repeated)} values of {id_column} stand more than once, e.g. {repeated[0]}")


def list_matrix(array: pa.Array | pa.ChunkedArray, *, what: str) -> np.ndarray:
    """A list column as (rows, width), in its own float type; :class:`EmbeddingError` for nulls and ragged lists."""
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    _require_float_list(array.type, what=what)
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


def _read_ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches; the next one is decoded while the caller works on this one."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def _inspect(path: Path, column: str, id_column: str) -> EmbeddingFile:
    with parquet.reading(path, EmbeddingError):
        file = parquet.open_file(path)
    _require_columns(file.schema_arrow, path, id_column, column)
    list_type = file.schema_arrow.field(column).type
    _require_float_list(list_type, what=f"{path}, column {column}")
    return EmbeddingFile(
        path=path,
        rows=file.metadata.num_rows,
        type=str(list_type.value_type),
        width=list_type.list_size if pa.types.is_fixed_size_list(list_type) else None,
    )


def _require_columns(found: pa.Schema, path: Path, id_column: str, *others: str) -> None:
    missing = {id_column, *others} - set(found.names)
    if missing:
        raise EmbeddingError(f"{path}: no column {sorted(missing)}; it has {found.names}")
    id_type = found.field(id_column).type
    if not pa.types.is_integer(id_type):
        raise EmbeddingError(f"{path}, column {id_column}: expected integers, got {id_type}")


def _require_float_list(type_: pa.DataType, *, what: str) -> None:
    if not (pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)):
        raise EmbeddingError(f"{what}: expected lists of floats, got {type_}")
    if not pa.types.is_floating(type_.value_type):
        raise EmbeddingError(f"{what}: expected lists of floats, got lists of {type_.value_type}")


class _Faults:
    """Counts the bad vectors of a file, so that one error tells of all of them."""

    def __init__(self) -> None:
        self._nulls = self._not_finite = self._off = 0
        self._shortest, self._longest = np.inf, 0.0

    @property
    def found(self) -> bool:
        return self._nulls + self._not_finite + self._off > 0

    def add_nulls(self, nulls: int) -> bool:
        """Whether the file has nulls, here or before: its other faults are then not looked for."""
        self._nulls += nulls
        return self._nulls > 0

    def add(self, matrix: np.ndarray) -> None:
        if not len(matrix):
            return
        for start in range(0, len(matrix), _CHECKED_ROWS):
            self._add(matrix[start : start + _CHECKED_ROWS])

    def _add(self, matrix: np.ndarray) -> None:
        wide = matrix if matrix.dtype == np.float64 else matrix.astype(np.float32)
        with np.errstate(over="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        finite = np.isfinite(norms)
        off = finite & (np.abs(norms - 1) > _NORM_TOLERANCE)
        self._not_finite += int((~finite).sum())
        if off.any():
            self._off += int(off.sum())
            self._shortest = min(self._shortest, float(norms[off].min()))
            self._longest = max(self._longest, float(norms[off].max()))

    def raise_for(self, file: EmbeddingFile) -> None:
        if self._nulls:
            raise EmbeddingError(f"{file.path}: {self._nulls} of {file.rows} embeddings are null")
        if self._not_finite:
            raise EmbeddingError(f"{file.path}: {self._not_finite} of {file.rows} vectors are not finite")
        if self._off:
            raise EmbeddingError(
                f"{file.path}: {self._off} of {file.rows} vectors are not of unit length, "
                f"lengths {self._shortest:.4g} to {self._longest:.4g}; normalize them first"
            )
