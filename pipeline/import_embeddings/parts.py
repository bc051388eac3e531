"""Embeddings made elsewhere, part by part: where url and caption stand, and how the vectors are read."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import EmbeddingError
from pipeline.vectors.read import list_matrix

_ROWS = 8192
_NUMBER = re.compile(r"_(\d+)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumpyPart:
    """A part of clip-retrieval's output: ``metadata_<n>.parquet``, ``img_emb_<n>.npy``, ``text_emb_<n>.npy``.

    ``dims``: width of image and of text vectors, 0 where there are none.
    """

    name: str
    metadata: Path
    rows: int
    image: Path
    text: Path | None
    dims: tuple[int, int]

    def vectors(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Pieces ``(rows, width)`` of image and text vectors, in the order of the metadata."""
        image, text = _open_npy(self.image), _open_npy(self.text) if self.text else None
        for start in range(0, self.rows, _ROWS):
            yield image[start : start + _ROWS], None if text is None else text[start : start + _ROWS]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetPart:
    """A Parquet file with lists of floats beside url and caption; ``dims`` as above."""

    name: str
    metadata: Path
    rows: int
    image_column: str
    text_column: str | None
    dims: tuple[int, int]

    def vectors(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """The same of this file; a row without a vector of the part's width is not a number throughout."""
        columns = [self.image_column, *([self.text_column] if self.text_column else [])]
        for batch in pq.ParquetFile(self.metadata).iter_batches(_ROWS, columns=columns):
            found = [_rows(batch.column(name), width) for name, width in zip(columns, self.dims)]
            yield found[0], found[1] if self.text_column else None


Part = NumpyPart | ParquetPart


def find_parts(source: Path, *, image_column: str, text_column: str) -> list[Part]:
    """The parts of a clip-retrieval output folder, or of a Parquet file or folder of them; :class:`EmbeddingError` for
    anything else, and for parts that do not fit together."""
    parts: list[Part] = []
    if (source / "img_emb").is_dir():
        parts += _numpy_parts(source)
    else:
        paths = [source] if source.is_file() else sorted(source.glob("*.parquet"))
        parts += [_parquet_part(path, image_column, text_column) for path in paths]
    if not parts:
        raise EmbeddingError(f"{source}: neither img_emb/ and metadata/ of clip-retrieval nor a Parquet file there")
    found = {part.dims: part.name for part in parts if part.rows}
    if len(found) > 1:
        named = ", ".join(f"{dims} in part {name}" for dims, name in found.items())
        raise EmbeddingError(f"{source}: parts of mixed widths (image, text): {named}")
    return parts


def _numpy_parts(source: Path) -> list[NumpyPart]:
    images, metadata = _numbered(source / "img_emb", "npy"), _numbered(source / "metadata", "parquet")
    texts = _numbered(source / "text_emb", "npy")
    for name, others in (("metadata", metadata), *([("text_emb", texts)] if texts else [])):
        if odd := sorted(set(images) ^ set(others), key=int):
            raise EmbeddingError(f"{source}: img_emb and {name} have no common part {odd[0]} ({len(odd)} such parts)")
    return [_numpy_part(name, images[name], texts.get(name), metadata[name]) for name in sorted(images, key=int)]


def _numpy_part(name: str, image: Path, text: Path | None, metadata: Path) -> NumpyPart:
    rows = _open_parquet(metadata).metadata.num_rows
    arrays = {path: _open_npy(path) for path in (image, text) if path is not None}
    for path, array in arrays.items():
        if len(array) != rows:
            raise EmbeddingError(f"{path}: {len(array)} vectors, but {rows} rows in {metadata}")
    dims = (int(arrays[image].shape[1]), int(arrays[text].shape[1]) if text else 0)
    return NumpyPart(name=name, metadata=metadata, rows=rows, image=image, text=text, dims=dims)


def _parquet_part(path: Path, image_column: str, text_column: str) -> ParquetPart:
    file = _open_parquet(path)
    names = file.schema_arrow.names
    if image_column not in names:
        raise EmbeddingError(f"{path}: no column {image_column!r}; it has {names}")
    text = text_column if text_column in names else None
    first = next(file.iter_batches(_ROWS, columns=[image_column, *([text] if text else [])]), None)
    dims = [0, 0]
    for number, column in enumerate((image_column, text)):
        if first is not None and column:
            dims[number] = _width(first.column(column), what=f"{path}, column {column}")
    return ParquetPart(
        name=path.stem,
        metadata=path,
        rows=file.metadata.num_rows,
        image_column=image_column,
        text_column=text,
        dims=(dims[0], dims[1]),
    )


def _width(array: pa.Array, *, what: str) -> int:
    """That of most rows; :class:`EmbeddingError` for a column that holds no vectors."""
    # Of no row, for its look at the type.
    list_matrix(array.slice(0, 0), what=what)
    common = pc.mode(pc.list_value_length(array).drop_null())
    width = common[0]["mode"].as_py() if len(common) else 0
    if not width:
        raise EmbeddingError(f"{what}: no vector in its first {len(array)} rows")
    return int(width)


def _rows(array: pa.Array, width: int) -> np.ndarray:
    good = pc.equal(pc.list_value_length(array), width).fill_null(False)
    matrix = np.full((len(array), width), np.nan, np.float32)
    values = array.filter(good).flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
    matrix[good.to_numpy(zero_copy_only=False)] = values.reshape(-1, width)
    return matrix


def _numbered(folder: Path, ending: str) -> dict[str, Path]:
    """Files by the number at the end of their name."""
    found = {path: _NUMBER.search(path.stem) for path in sorted(folder.glob(f"*.{ending}"))}
    return {match.group(1): path for path, match in found.items() if match}


def _open_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EmbeddingError(f"{path}: not a readable .npy array: {error}") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise EmbeddingError(f"{path}: expected rows of floats, got shape {array.shape} of {array.dtype}")
    return array


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise EmbeddingError(f"{path}: not a readable Parquet file: {error}") from error
