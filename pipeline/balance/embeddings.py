"""Embeddings as DuckDB reads them, checked from the files' own metadata where that is enough."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core import query
from pipeline.core.errors import EmbeddingError
from pipeline.vectors.read import as_paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingFiles:
    """``rows`` embeddings of ``width`` floats, one for each value of ``id_column``; ``has_text``: captions have
    embeddings as wide in the same files."""

    paths: list[Path]
    id_column: str
    rows: int
    width: int
    has_text: bool


def open_embeddings(
    connection: duckdb.DuckDBPyConnection, embeddings: Path | Sequence[Path], id_column: str
) -> EmbeddingFiles:
    """Make the view ``embeddings``, in which the id is called ``image_id``, and check what it shows.

    Vectors in lists of fixed size are not read for it. Raises :class:`EmbeddingError` that says what and how many for
    missing files and columns, no row, nulls, mixed widths, and ids that are missing or stand more than once.
    """
    paths = as_paths(embeddings)
    types = {path: _column_type(path, "image_embedding", id_column) for path in paths}
    query.view(connection, "embedding_files", paths)
    hidden = {name for name in pq.read_schema(paths[0]).names if name in (id_column, "image_id")}
    quoted = {name: query.identifier(name) for name in (id_column, *hidden)}
    connection.execute(
        f"CREATE TEMP VIEW embeddings AS SELECT {quoted[id_column]} AS image_id, "
        f"* EXCLUDE ({', '.join(quoted[name] for name in sorted(hidden))}) FROM embedding_files"
    )
    counts = query.one(connection, query.sql("pipeline.balance", "embedding_ids"), {})
    assert counts is not None
    if not counts["rows"]:
        raise EmbeddingError(f"no embeddings: {len(paths)} files without a row")
    if counts["without_id"]:
        raise EmbeddingError(f"{counts['without_id']} of {counts['rows']} embeddings have no {id_column}")
    if counts["repeated"]:
        raise EmbeddingError(f"{counts['repeated']} values of {id_column} stand more than once")
    width = _width(connection, types)
    text_sizes = {_list_size(pq.read_schema(path), "text_embedding") for path in paths}
    return EmbeddingFiles(
        paths=paths, id_column=id_column, rows=counts["rows"], width=width, has_text=text_sizes in ({width}, {-1})
    )


def _column_type(path: Path, column: str, id_column: str) -> pa.DataType:
    try:
        found = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise EmbeddingError(f"{path}: not a readable Parquet file: {error}") from error
    missing = {id_column, column} - set(found.names)
    if missing:
        raise EmbeddingError(f"{path}: no column {sorted(missing)}; it has {found.names}")
    if not pa.types.is_integer(found.field(id_column).type):
        raise EmbeddingError(f"{path}: {id_column} must be a 64-bit integer, got {found.field(id_column).type}")
    type_ = found.field(column).type
    if _list_size(found, column) is None or not pa.types.is_floating(type_.value_type):
        raise EmbeddingError(f"{path}, column {column}: expected lists of floats, got {type_}")
    return type_


def _list_size(found: pa.Schema, column: str) -> int | None:
    """Width of a column of fixed-size lists, -1 for lists that may differ, none for no such column."""
    if column not in found.names:
        return None
    type_ = found.field(column).type
    if pa.types.is_fixed_size_list(type_):
        return int(type_.list_size)
    return -1 if pa.types.is_list(type_) or pa.types.is_large_list(type_) else None


def _width(connection: duckdb.DuckDBPyConnection, types: dict[Path, pa.DataType]) -> int:
    fixed = {type_.list_size for type_ in types.values() if pa.types.is_fixed_size_list(type_)}
    unsure = [path for path, type_ in types.items() if not pa.types.is_fixed_size_list(type_) or _may_hold_nulls(path)]
    widths = set(fixed)
    if unsure:
        found = query.one(connection, query.sql("pipeline.balance", "embedding_widths"), {"paths": query.files(unsure)})
        assert found is not None
        if found["nulls"]:
            raise EmbeddingError(f"image_embedding: {found['nulls']} nulls among {len(unsure)} files, e.g. {unsure[0]}")
        widths |= {width for width in (found["narrowest"], found["widest"]) if width is not None}
    if len(widths) > 1:
        raise EmbeddingError(f"embeddings of mixed widths {sorted(widths)} among {len(types)} files")
    return int(widths.pop())


def _may_hold_nulls(path: Path) -> bool:
    """Whether a file's statistics count nulls in its image embeddings, or say nothing about them."""
    metadata = pq.read_metadata(path)
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.path_in_schema.split(".")[0] == "image_embedding":
                statistics = column.statistics
                if statistics is None or not statistics.has_null_count or statistics.null_count:
                    return True
    return False
